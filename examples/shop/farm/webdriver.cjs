"use strict";
/**
 * The W3C WebDriver commands that appwright 0.1.1 sends, for a device on this host (Appium's /session) and for the
 * BrowserStack hub (/wd/hub/session). Faults, for testing what runs the tests:
 *   element "crash"    the app dies when it is tapped, and the session with it
 *   element "hang"     the tap is never answered
 *   element "unplug"   the whole farm goes away
 *   FARM_NO_DEVICE=1   no session can be created
 */

const fs = require("node:fs");
const { appOf, requireLogin } = require("./browserstack.cjs");
const { WebDriverError } = require("./errors.cjs");
const screen = require("./screen.cjs");
const selector = require("./selector.cjs");
const sessions = require("./sessions.cjs");

const ELEMENT = "element-6066-11e4-a52e-4f735466cecf"; // the W3C name of "this is an element reference"

const ROUTES = [
  ["GET", "/status", () => ({ ready: true, message: "The device double is ready" })],
  ["POST", "/session", create],
  ["DELETE", "/session/:id", onSession((session) => sessions.close(session.id))],
  ["GET", "/session/:id/screenshot", onSession((session) => screen.screenshotOf(nodes(session)))],
  ["GET", "/session/:id/source", onSession((session) => screen.xmlOf(nodes(session)))],
  ["GET", "/session/:id/window/rect", onSession(() => ({ x: 0, y: 0, width: screen.WIDTH, height: screen.HEIGHT }))],
  ["POST", "/session/:id/timeouts", onSession(() => null)],
  ["POST", "/session/:id/element", onSession(findOne)],
  ["POST", "/session/:id/elements", onSession((session, body) => find(session, body).map(reference))],
  ["POST", "/session/:id/actions", onSession(act)],
  ["DELETE", "/session/:id/actions", onSession(() => null)],
  ["POST", "/session/:id/execute/sync", onSession(execute)],
  ["GET", "/session/:id/element/:key/displayed", onElement(() => true)], // what is not displayed is not in the tree
  ["GET", "/session/:id/element/:key/text", onElement((_, node) => node.text)],
  ["GET", "/session/:id/element/:key/name", onElement((_, node) => node.class)],
  ["GET", "/session/:id/element/:key/rect", onElement((_, node) => node.rect)],
  ["GET", "/session/:id/element/:key/enabled", onElement(() => true)],
  ["GET", "/session/:id/element/:key/attribute/:name", onElement((_, node, __, { name }) => node[name] ?? null)],
  ["POST", "/session/:id/element/:key/click", onElement(click)],
  ["POST", "/session/:id/element/:key/value", onElement(({ app }, node, { text }) => accepted(app.type(node, text)))],
  ["POST", "/session/:id/element/:key/clear", onElement(({ app }, node) => accepted(app.clear(node)))],
].map(([method, path, answer]) => ({
  method,
  pattern: new RegExp(`^${path.replace(/:(\w+)/g, "(?<$1>[^/]+)")}$`),
  answer,
}));

/** The value that answers a command, maybe as a promise. Throws a WebDriverError. `hub`: "local" or "browserstack". */
function command({ method, path, body, headers, hub }) {
  for (const route of ROUTES) {
    const match = route.method === method && route.pattern.exec(path);
    if (match) return route.answer({ ...match.groups, body, headers, hub });
  }
  throw new WebDriverError("unknown command", `The double does not know ${method} ${path}`);
}

function onSession(answer) {
  return ({ id, body, ...parameters }) => answer(sessions.get(id), body, parameters);
}

function onElement(answer) {
  return onSession((session, body, parameters) => answer(session, nodeOf(session, parameters.key), body, parameters));
}

function create({ body, headers, hub }) {
  const { alwaysMatch = {}, firstMatch = [{}] } = body.capabilities;
  const wanted = { ...alwaysMatch, ...firstMatch[0] };
  const session = hub === "local" ? createLocally(wanted) : createInTheCloud(wanted, headers);
  const { version } = session.app.description;
  process.stderr.write(`session ${session.id} of version ${version} for ${hub}\n`);
  return { sessionId: session.id, capabilities: { ...wanted, platformName: "Android" } };
}

function createLocally(wanted) {
  if (process.env.FARM_NO_DEVICE === "1") {
    throw appiumError("Could not find a connected Android device in 20000ms");
  }
  const path = wanted["appium:app"];
  if (!fs.existsSync(path)) throw appiumError(`The application at '${path}' does not exist or is not accessible`);
  sessions.closeAll("local");
  return install(fs.readFileSync(path), "local");
}

function createInTheCloud(wanted, headers) {
  requireLogin(headers);
  if (process.env.FARM_NO_DEVICE === "1") {
    throw new WebDriverError("unknown error", "All parallel tests are currently in use, including the queued tests");
  }
  return install(appOf(wanted["appium:app"]), "browserstack");
}

function install(build, hub) {
  try {
    return sessions.open(build, hub);
  } catch (error) {
    throw appiumError(`The application is not an app of the double: ${error.message}`);
  }
}

function appiumError(cause) {
  return new WebDriverError(
    "unknown error",
    `An unknown server-side error occurred while processing the command. Original error: ${cause}`,
  );
}

function nodes(session) {
  return screen.nodesOf(session.app);
}

function nodeOf(session, key) {
  const node = nodes(session).find((candidate) => candidate.key === key);
  if (!node) {
    throw new WebDriverError("stale element reference", `The element '${key}' is not on the screen any more`);
  }
  return node;
}

function find(session, { using, value }) {
  return selector.find(nodes(session), using, value);
}

function findOne(session, search) {
  const [first] = find(session, search);
  if (!first) {
    const wanted = `${search.using}: ${search.value}`;
    throw new WebDriverError("no such element", `No element on screen "${session.app.screen}" fits ${wanted}`);
  }
  return reference(first);
}

function reference(node) {
  return { [ELEMENT]: node.key };
}

function click(session, node) {
  if (node.unplug) {
    process.stderr.write("unplugged\n");
    process.exit(1);
  }
  if (node.hang) return new Promise(() => {});
  if (node.crash) {
    sessions.close(session.id);
    throw appiumError("cannot be proxied to UiAutomator2 server because the instrumentation process is not running");
  }
  session.app.tap(node);
  return null;
}

function act(session, { actions }) {
  for (const source of actions) {
    if (source.type !== "key") throw new WebDriverError("invalid argument", `The double has no ${source.type} actions`);
    const pressed = source.actions.filter(({ type }) => type === "keyDown");
    accepted(session.app.typeIntoFocused(pressed.map(({ value }) => value).join("")));
  }
  return null;
}

function accepted(typed) {
  if (!typed) throw new WebDriverError("invalid element state", "The element takes no text");
  return null;
}

function execute(session, { script, args }) {
  if (script.startsWith("browserstack_executor:")) return null;
  if (script !== "mobile: clickGesture") throw new WebDriverError("unknown method", `Unknown mobile command "${script}"`);
  const node = screen.nodeAt(nodes(session), args[0].x, args[0].y);
  return node ? click(session, node) : null;
}

module.exports = { command };
