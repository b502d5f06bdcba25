// What the official client for Node sees of a finished job, as one line of JSON. Environment: BASE_URL, KEY, JOB, MODEL, BASE.
const fs = require("fs");
const os = require("os");
const path = require("path");
const { OpenAI } = require("openai");

async function main() {
  const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.KEY, maxRetries: 0 });
  const told = {};
  const place = path.join(fs.mkdtempSync(path.join(os.tmpdir(), "luthier-")), "rows.jsonl");
  const line = (n) => JSON.stringify({ messages: [{ role: "user", content: `${n}?` }, { role: "assistant", content: `${n}` }] });
  fs.writeFileSync(place, [1, 2, 3, 4, 5].map(line).join("\n"));
  const file = await client.files.create({ file: fs.createReadStream(place), purpose: "fine-tune" }); // chunked, file before purpose
  told.uploaded = file.status;
  const made = await client.fineTuning.jobs.create({ model: process.env.BASE, training_file: file.id });
  told.waits = made.status;
  told.paused = (await client.fineTuning.jobs.pause(made.id)).status;
  told.resumed = (await client.fineTuning.jobs.resume(made.id)).status;
  told.cancelled = (await client.fineTuning.jobs.cancel(made.id)).status;
  told.events = 0;
  for await (const event of client.fineTuning.jobs.listEvents(process.env.JOB, { limit: 2 })) told.events += event.message ? 1 : 0;
  for await (const one of client.fineTuning.jobs.checkpoints.list(process.env.JOB)) told.checkpoint = one.fine_tuned_model_checkpoint;
  const messages = [{ role: "user", content: "1 one?" }];
  const answer = await client.chat.completions.create({ model: process.env.MODEL, messages, max_tokens: 4 });
  told.answer = answer.model === process.env.MODEL;
  told.deleted = (await client.files.delete(file.id)).deleted;
  console.log(JSON.stringify(told));
}

main();
