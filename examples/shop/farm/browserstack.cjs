"use strict";
/**
 * What appwright 0.1.1 uses of BrowserStack App Automate besides the hub: upload, session details, video.
 * https://www.browserstack.com/docs/app-automate/api-reference
 *   FARM_REFUSE_UPLOAD=1 (or 401)   uploads fail as with wrong credentials
 *   FARM_REFUSE_UPLOAD=422          uploads fail as with a file that is no app
 */

const { parse } = require("./app.cjs");
const { WebDriverError } = require("./errors.cjs");
const sessions = require("./sessions.cjs");

const uploads = new Map(); // bs:// address -> { build, name }

class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  get body() {
    return { error: this.message };
  }
}

/** Answers `{ type, body }` for a path of the API, undefined for another's. Throws an ApiError. */
async function api({ method, path, raw, headers }) {
  const [, id] = /^\/app-automate\/sessions\/([\w-]+)\.json$/.exec(path) ?? [];
  const [, filmed] = /^\/videos\/([\w-]+)\.mp4$/.exec(path) ?? [];
  if (filmed) return { type: "video/mp4", body: video(filmed) };
  if (!path.startsWith("/app-automate/")) return undefined;
  if (!headers.authorization) throw new ApiError(401, "Unauthorized");
  if (method === "POST" && path === "/app-automate/upload") return json(await upload(raw, headers));
  if (id && method === "PUT") return json(update(id, JSON.parse(raw)));
  if (id && method === "GET") return json(details(id));
  throw new ApiError(404, `The double does not know ${method} ${path}`);
}

function json(body) {
  return { type: "application/json", body: JSON.stringify(body) };
}

async function upload(raw, headers) {
  const refusal = process.env.FARM_REFUSE_UPLOAD;
  if (refusal && refusal !== "422") throw new ApiError(401, "Unauthorized");
  const form = await new Response(raw, { headers: { "content-type": headers["content-type"] } }).formData();
  const file = form.get("file");
  if (!file?.name) throw new ApiError(422, "The double takes uploaded files only, it downloads nothing");
  const build = Buffer.from(await file.arrayBuffer());
  if (refusal === "422" || !isApp(build)) throw new ApiError(422, `${file.name} is not a valid app`);
  const app_url = `bs://${sessions.digestOf(build)}`;
  uploads.set(app_url, { build, name: file.name });
  process.stderr.write(`uploaded ${file.name} as ${app_url}\n`);
  return { app_url };
}

function isApp(build) {
  try {
    return Boolean(parse(build.toString()));
  } catch {
    return false;
  }
}

/** The bytes behind a bs:// address. Throws the hub's error for an address that was never uploaded. */
function appOf(app_url) {
  const uploaded = uploads.get(app_url);
  if (!uploaded) {
    throw new WebDriverError("unknown error", `[BROWSERSTACK_INVALID_APP_CAP] The app capability ${app_url} is invalid`);
  }
  return uploaded.build;
}

function requireLogin(headers) {
  if (!headers.authorization) throw new WebDriverError("unknown error", "Authorization required");
}

function update(id, { name, status, reason }) {
  const record = recordOf(id);
  Object.assign(record, name === undefined ? { status, reason } : { name });
  return details(id);
}

function details(id) {
  const { name, status = "running", reason = "", description } = recordOf(id);
  return {
    automation_session: {
      name,
      status,
      reason,
      hashed_id: id,
      video_url: `https://app-automate.browserstack.com/videos/${id}.mp4`,
      app_details: { app_name: description.package, app_version: description.version },
    },
  };
}

/** An MP4 that says how it is made and holds no pictures: the double films nothing. Ready when the session is over. */
function video(id) {
  if (!sessions.record(id)?.ended) throw new ApiError(404, "The video is not ready");
  const header = Buffer.alloc(100);
  header.writeUInt32BE(1000, 12); // ticks per second
  header.writeUInt32BE(0x10000, 20); // rate 1.0
  header.writeUInt16BE(0x100, 24); // volume 1.0
  header.writeUInt32BE(0x10000, 36); // the unit matrix
  header.writeUInt32BE(0x10000, 52);
  header.writeUInt32BE(0x40000000, 68);
  header.writeUInt32BE(1, 96); // next track
  return Buffer.concat([box("ftyp", Buffer.from("isom\0\0\0\0isom")), box("moov", box("mvhd", header))]);
}

function box(type, content) {
  const size = Buffer.alloc(4);
  size.writeUInt32BE(content.length + 8);
  return Buffer.concat([size, Buffer.from(type), content]);
}

function recordOf(id) {
  const record = sessions.record(id);
  if (!record) throw new ApiError(404, "Session not found");
  return record;
}

module.exports = { api, appOf, requireLogin };
