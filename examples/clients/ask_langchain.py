"""Ask a served model from LangChain: one question, a stream, and a chain with a prompt.

pip install langchain-openai;  LUTHIER_URL=... LUTHIER_KEY=... python ask_langchain.py ticket-router "Where is my parcel?"
"""

import os
import sys

from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

model, question = sys.argv[1:3]
llm = ChatOpenAI(
    model=model, base_url=os.environ["LUTHIER_URL"], api_key=os.environ["LUTHIER_KEY"], temperature=0
)

print("answer:", llm.invoke(question).content)
print("stream:", "".join(str(piece.content) for piece in llm.stream(question)))
chain = ChatPromptTemplate.from_messages([("user", "{question}")]) | llm
print("chain: ", chain.invoke({"question": question}).content)
