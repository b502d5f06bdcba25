// What the official client for Node gets, as one line of JSON. Environment: BASE_URL, KEY; openai is found by NODE_PATH.
const { OpenAI } = require("openai");

const tools = [{ type: "function", function: { name: "now", parameters: { type: "object", properties: {} } } }];
const say = (content) => ({ model: "router", messages: [{ role: "user", content }] });

async function main() {
  const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.KEY, maxRetries: 0 });
  const told = {};
  const whole = await client.chat.completions.create(say("hi"));
  told.chat = whole.choices[0].message.content;
  told.usage = whole.usage.total_tokens;
  told.stream = "";
  for await (const chunk of await client.chat.completions.create({ ...say("hi"), stream: true, stream_options: { include_usage: true } })) {
    told.stream += chunk.choices[0]?.delta?.content ?? "";
    told.streamUsage = chunk.usage?.total_tokens ?? told.streamUsage;
  }
  const calling = await client.chat.completions.create({ ...say("call"), tools });
  told.call = calling.choices[0].message.tool_calls[0].function.name;
  const streamed = client.chat.completions.stream({ ...say("call"), tools });
  told.streamedCall = (await streamed.finalChatCompletion()).choices[0].message.tool_calls[0].function;
  told.completion = (await client.completions.create({ model: "router", prompt: "hi" })).choices[0].text;
  told.response = (await client.responses.create({ model: "router", input: "hi", store: false })).output_text;
  told.events = [];
  for await (const event of await client.responses.create({ model: "router", input: "hi", stream: true })) told.events.push(event.type);
  const vectors = await client.embeddings.create({ model: "router", input: ["a", "b"] });
  told.vectors = vectors.data.map((one) => one.embedding.length);
  told.models = (await client.models.list()).data.map((one) => one.id);
  try {
    await client.chat.completions.create({ ...say("hi"), model: "other" });
  } catch (error) {
    told.error = [error.constructor.name, error.status, error.code, typeof error.requestID];
  }
  console.log(JSON.stringify(told));
}

main();
