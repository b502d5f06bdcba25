// Ask a served model with OpenAI's Node client: whole and as a stream.
//
// npm install openai;  LUTHIER_URL=http://127.0.0.1:8000/v1 LUTHIER_KEY=luthier_... node ask.mjs ticket-router "Where is my parcel?"

import OpenAI from "openai";

const [model, question] = process.argv.slice(2);
const client = new OpenAI({ baseURL: process.env.LUTHIER_URL, apiKey: process.env.LUTHIER_KEY, maxRetries: 2 });
const messages = [{ role: "user", content: question }];

// `user` keeps one person at one version while a new one is rolled out
const { data, response } = await client.chat.completions.create({ model, messages, user: "ann" }).withResponse();
console.log("answer: ", data.choices[0].message.content ?? data.choices[0].message.refusal);
console.log("release:", response.headers.get("x-luthier-release"));

process.stdout.write("stream:  ");
for await (const chunk of await client.chat.completions.create({ model, messages, user: "ann", stream: true })) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}
console.log();
