"use strict";
/**
 * For NODE_OPTIONS=--require: sends what appwright asks of Appium (127.0.0.1:4723) and of BrowserStack to the double
 * at FARM_URL. Both addresses are fixed in appwright; with this it stays unmodified, no fixed port is bound, and
 * sessions can run side by side on one host. Whatever else is not on this machine is refused: nothing leaves it.
 *
 * appwright uses three clients: webdriver's `got` and node-fetch, both over http(s).request, and the global fetch.
 */

const http = require("node:http");
const https = require("node:https");
const { syncBuiltinESMExports } = require("node:module");

if (!process.env.FARM_URL) throw new Error("farm/redirect.cjs needs FARM_URL, the address of farm/server.cjs");
const farm = new URL(process.env.FARM_URL);
const APPIUM_PORT = "4723";

/** Where a request really goes: `url` itself if it may. Throws for an address that is not on this machine. */
function route(url) {
  if (!/^https?:$/.test(url.protocol)) return url;
  const here = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(url.hostname);
  if (here && url.port !== APPIUM_PORT) return url;
  if (!here && !/(^|\.)browserstack\.com$/.test(url.hostname)) {
    throw new Error(`${url.origin} is not on this machine, and farm/redirect.cjs lets nothing out`);
  }
  const target = new URL(url);
  target.protocol = farm.protocol;
  target.host = farm.host;
  return target;
}

const httpRequest = http.request;

function patched(module, scheme) {
  const original = module.request;
  return (...given) => {
    const [first, ...rest] = given;
    const options = (typeof first === "string" || first instanceof URL ? rest[0] : first) ?? {};
    if (options.socketPath) return original(...given);
    const url = first === options ? urlOf(options, scheme) : new URL(first);
    const target = route(url);
    if (target === url) return original(...given);
    // What names the original place must go: it would win over the URL, and an https agent cannot speak http.
    const { agent, host, hostname, path, port, protocol, ...kept } = typeof options === "object" ? options : {};
    return httpRequest(target, kept, given.find((argument) => typeof argument === "function"));
  };
}

function urlOf({ protocol, hostname, host, port, path }, scheme) {
  const url = new URL(`${protocol ?? scheme}//${hostname ?? host ?? "localhost"}${path ?? "/"}`);
  if (port) url.port = port;
  return url;
}

for (const [module, scheme] of [[http, "http:"], [https, "https:"]]) {
  const request = patched(module, scheme);
  module.request = request;
  module.get = (...given) => request(...given).end();
}
syncBuiltinESMExports(); // for `import { request } from "node:http"`

const realFetch = globalThis.fetch;
globalThis.fetch = async (input, init) => {
  const isRequest = input instanceof Request;
  const target = route(new URL(isRequest ? input.url : input));
  return realFetch(isRequest ? new Request(target, input) : target, init);
};
