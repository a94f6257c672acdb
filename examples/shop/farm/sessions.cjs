"use strict";
/** The sessions of this farm: live ones by id, and for every session its record, which outlives it. */

const { createHash, randomUUID } = require("node:crypto");
const { App, parse } = require("./app.cjs");
const { WebDriverError } = require("./errors.cjs");

const live = new Map();
const records = new Map();
const servers = new Map(); // build digest -> the variables that its sessions share

/** Starts a fresh installation of the app whose bytes are `build`; throws an Error when it is not an app. */
function open(build, hub) {
  const description = parse(build.toString());
  const digest = digestOf(build);
  if (!servers.has(digest)) servers.set(digest, { ...description.server });
  const id = randomUUID();
  const session = { id, hub, app: new App(description, servers.get(digest)) };
  live.set(id, session);
  records.set(id, { id, description, ended: false });
  return session;
}

function get(id) {
  const session = live.get(id);
  if (!session) {
    throw new WebDriverError("invalid session id", "A session is either terminated or not started");
  }
  return session;
}

function close(id) {
  live.delete(id);
  records.get(id).ended = true;
}

/** A device on a desk runs one session: the next one takes it over, as a new UiAutomator2 server does. */
function closeAll(hub) {
  for (const session of live.values()) if (session.hub === hub) close(session.id);
}

function record(id) {
  return records.get(id);
}

function digestOf(build) {
  return createHash("sha1").update(build).digest("hex");
}

module.exports = { close, closeAll, digestOf, get, open, record };
