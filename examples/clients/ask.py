"""Ask a served model with OpenAI's Python client: whole, as a stream, and tell what the answer was worth.

pip install openai;  LUTHIER_URL=http://127.0.0.1:8000/v1 LUTHIER_KEY=luthier_... python ask.py ticket-router "Where is my parcel?"
"""

import os
import sys

from openai import OpenAI

model, question = sys.argv[1:3]
client = OpenAI(base_url=os.environ["LUTHIER_URL"], api_key=os.environ["LUTHIER_KEY"], max_retries=2)
messages = [{"role": "user", "content": question}]

# `user` keeps one person at one version while a new one is rolled out
answered = client.chat.completions.with_raw_response.create(model=model, messages=messages, user="ann")
whole = answered.parse()
print("answer: ", whole.choices[0].message.content or whole.choices[0].message.refusal)
print("release:", answered.headers["x-luthier-release"])
print("lineage:", f"luthier lineage {whole.id}")

print("stream:  ", end="")
for chunk in client.chat.completions.create(model=model, messages=messages, user="ann", stream=True):
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
