// BullMQ with pg on Node: one job an event, each an upsert.
//
// As BullMQ's guides "Concurrency" and "Going to production" advise: jobs are added in bulk and removed when done, workers run
// many jobs at once because they wait for the database most of the time. Two processes, each with a pool of ten connections and
// a named (prepared) statement.
//
//     BENCH_PEER=settings.json node bullmq_pg.mjs fill | work

import { fork } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const settings = JSON.parse(readFileSync(process.env.BENCH_PEER, "utf8"));
// The packages are installed where the bench keeps its environments, not beside this file.
const require = createRequire(settings.environment + "/package.json");
const { Queue, Worker } = require("bullmq");
const { Pool } = require("pg");

const QUEUE = "peer";
const CONCURRENCY = 50;
const CHUNK = 1000;
const url = new URL(settings.broker_url);
const connection = {
  host: url.hostname,
  port: Number(url.port),
  password: decodeURIComponent(url.password),
  maxRetriesPerRequest: null,
};

async function fill() {
  const queue = new Queue(QUEUE, { connection });
  const lines = readFileSync(settings.rows, "utf8").trim().split("\n");
  const opts = { removeOnComplete: true, removeOnFail: true };
  for (let first = 0; first < lines.length; first += CHUNK) {
    const part = lines.slice(first, first + CHUNK);
    await queue.addBulk(part.map((line) => ({ name: "store", data: JSON.parse(line), opts })));
  }
  await queue.close();
}

function work() {
  for (let number = 1; number < settings.processes; number++) {
    const other = fork(process.argv[1], ["one"]);
    process.on("exit", () => other.kill());
  }
  one();
}

function one() {
  const pool = new Pool({ connectionString: settings.database_url, max: 10 });
  let statement;
  const worker = new Worker(
    QUEUE,
    async (job) => {
      statement ??= upsert(Object.keys(job.data));
      await pool.query({ name: "store", text: statement, values: Object.values(job.data) });
    },
    { connection, concurrency: CONCURRENCY },
  );
  worker.on("error", (error) => console.error(error.message));
  worker.on("failed", (_job, error) => console.error(error.message));
  process.on("SIGTERM", () => process.exit(0));
  process.on("disconnect", () => process.exit(0));
}

function upsert(names) {
  const values = names.map((_, place) => `$${place + 1}`);
  const changes = names.filter((name) => name !== "task_id").map((name) => `${name} = excluded.${name}`);
  return `INSERT INTO peers.tasks (${names}) VALUES (${values}) ON CONFLICT (task_id) DO UPDATE SET ${changes}`;
}

if (process.argv[2] === "fill") await fill();
else if (process.argv[2] === "work") work();
else one();
