// An independent reader of our recordings: node tools/mcap_check.mjs FILE.mcap …
// Needs `npm install @mcap/core @mcap/support` somewhere above, or NODE_PATH; checks every CRC.
import { open } from "node:fs/promises";
import { createRequire } from "node:module";
const require = createRequire(`${process.env.MCAP_MODULES ?? process.cwd()}/x.js`);
const { McapIndexedReader, McapStreamReader } = require("@mcap/core");

for (const path of process.argv.slice(2)) {
  const file = await open(path);
  const size = (await file.stat()).size;
  const readable = {
    size: async () => BigInt(size),
    read: async (offset, length) => {
      const buffer = new Uint8Array(Number(length));
      await file.read(buffer, 0, Number(length), Number(offset));
      return buffer;
    },
  };
  const reader = await McapIndexedReader.Initialize({ readable });
  const indexed = {};
  let last = 0n;
  for await (const message of reader.readMessages()) {
    const topic = reader.channelsById.get(message.channelId).topic;
    indexed[topic] = (indexed[topic] ?? 0) + 1;
    if (message.logTime < last) throw new Error(`${path}: log time runs back`);
    last = message.logTime;
  }
  const stream = new McapStreamReader({ validateCrcs: true });
  stream.append(await readable.read(0n, BigInt(size)));
  let streamed = 0;
  let largestChunk = 0;
  for (let record; (record = stream.nextRecord()); ) {
    if (record.type === "Message") streamed++;
  }
  if (!stream.done()) throw new Error(`${path}: not read to its end`);
  let mixed = 0;
  for (const chunk of reader.chunkIndexes) {
    largestChunk = Math.max(largestChunk, Number(chunk.uncompressedSize));
    const topics = [...chunk.messageIndexOffsets.keys()].map((id) => reader.channelsById.get(id).topic);
    if (topics.length > 1 && topics.some((t) => t.startsWith("/camera/") || t.startsWith("/map/"))) mixed++;
  }
  const total = Object.values(indexed).reduce((a, b) => a + b, 0);
  if (total !== streamed) throw new Error(`${path}: ${total} by index, ${streamed} by stream`);
  if (mixed) throw new Error(`${path}: ${mixed} pictures share their chunk`);
  const schemas = [...reader.schemasById.values()].map((s) => `${s.name} (${s.encoding})`);
  console.log(JSON.stringify({ path, messages: total, topics: indexed, schemas }));
  await file.close();
}
