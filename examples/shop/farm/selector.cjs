"use strict";
/** The element searches that appwright 0.1.1 makes on Android, over the nodes of screen.cjs. */

const { WebDriverError } = require("./errors.cjs");

const UI_SELECTOR = /^(?:new UiSelector\(\)\.)?(\w+)\("(.*)"\)$/s;
const UI_TESTS = {
  text: (value) => (node) => node.text === value,
  textContains: (value) => (node) => node.text.includes(value),
  resourceId: (value) => (node) => node["resource-id"] === value,
  // Java's matches(): the whole id, not a part of it
  resourceIdMatches: (value) => {
    const pattern = new RegExp(`^(?:${value})$`);
    return (node) => pattern.test(node["resource-id"]);
  },
};

const XPATH = /^\/\/(\*|[\w.]+)((?:\[[^\]]+\])*)$/;
const XPATH_TEST = /^(?:@([\w-]+)\s*=\s*(["'])(.*)\2|contains\(@([\w-]+),\s*(["'])(.*)\5\))$/;

/** The nodes that fit, in document order. Throws `invalid selector` for what the double does not speak. */
function find(nodes, strategy, selector) {
  if (strategy === "-android uiautomator") return nodes.filter(uiTest(selector));
  if (strategy === "xpath") return nodes.filter(xpathTest(selector));
  throw new WebDriverError(
    "invalid selector",
    `Locator Strategy '${strategy}' is not supported for this session`,
  );
}

function uiTest(selector) {
  const [, method, value] = UI_SELECTOR.exec(selector) ?? [];
  if (!Object.hasOwn(UI_TESTS, method ?? "")) {
    throw new WebDriverError("invalid selector", `Could not parse UiSelector: ${selector}`);
  }
  return UI_TESTS[method](value);
}

function xpathTest(selector) {
  const [, tag, predicates] = XPATH.exec(selector) ?? [];
  if (!tag) throw unsupported(selector);
  const tests = [...predicates.matchAll(/\[([^\]]+)\]/g)].flatMap(([, predicate]) =>
    predicate.split(/\s+and\s+/).map((test) => attributeTest(test.trim(), selector)),
  );
  return (node) => (tag === "*" || node.class === tag) && tests.every((test) => test(node));
}

function attributeTest(test, selector) {
  const [whole, equal, , value, contains, , part] = XPATH_TEST.exec(test) ?? [];
  if (!whole) throw unsupported(selector);
  return equal ? (node) => node[equal] === value : (node) => (node[contains] ?? "").includes(part);
}

function unsupported(selector) {
  return new WebDriverError(
    "invalid selector",
    `The double understands //class[@attribute="x"] and contains(@attribute, "x"), not ${selector}`,
  );
}

module.exports = { find };
