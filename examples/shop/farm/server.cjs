"use strict";
/**
 * The double of a device farm: one process, 127.0.0.1, a free port. Prints its address as the first and only line on
 * stdout once it listens; stderr is its log. It goes when it is told to (SIGTERM, SIGINT) or when an app unplugs it.
 */

const http = require("node:http");
const browserstack = require("./browserstack.cjs");
const { WebDriverError } = require("./errors.cjs");
const { command } = require("./webdriver.cjs");

const HUB = "/wd/hub";

async function answer(request) {
  const raw = await read(request);
  const { method, headers } = request;
  const { pathname: path } = new URL(request.url, "http://farm");
  process.stderr.write(`${method} ${path}\n`);
  const fromApi = await browserstack.api({ method, path, raw, headers });
  if (fromApi) return fromApi;
  const hub = path.startsWith(HUB) ? "browserstack" : "local";
  const body = raw.length ? JSON.parse(raw) : {};
  const value = await command({ method, path: hub === "local" ? path : path.slice(HUB.length), body, headers, hub });
  return { type: "application/json", body: JSON.stringify({ value: value ?? null }) };
}

async function read(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function refusal(error) {
  const known = error.body ? error : new WebDriverError("unknown error", error.message);
  process.stderr.write(`  ${known.status} ${known.message}\n`);
  return { status: known.status, type: "application/json", body: JSON.stringify(known.body) };
}

const server = http.createServer(async (request, response) => {
  const { status = 200, type, body } = await answer(request).catch(refusal);
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body) }).end(body);
});
// A connection that we close while the client is about to reuse it looks like a farm that dies.
server.keepAliveTimeout = 0;
server.listen(0, "127.0.0.1", () => process.stdout.write(`http://127.0.0.1:${server.address().port}\n`));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(0));
