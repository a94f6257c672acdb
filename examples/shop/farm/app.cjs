"use strict";
/**
 * An app of the double: its description (the JSON of builds/*.apk) and, once started, its state and open screen.
 * Pure: no clock, no chance, no I/O, so the same taps always lead to the same screen.
 *
 * Description:
 *   notes      what is special about this version, for people
 *   start      the first screen; screens: name -> elements from top to bottom
 *   state      variables of one installation, back to these values for every session (appwright asks for fullReset)
 *   server     variables behind the app, which outlive sessions as a shop's server would
 *
 * Element:
 *   id, text   `{name}` shows a variable, `{name:money}` shows cents as dollars
 *   kind       label (default), button, field
 *   into       field: the variable that typed text goes to; `hint` is its text while empty, `secret` shows dots
 *   when, unless   there only if all / not if all of these variables have these values
 *   matches    there only if its text contains this variable
 *   tap        a screen name, or a step, or steps of which the first one that may run does:
 *              { when, unless, set: {var: value}, add: {var: number}, go: screen }
 *   crash, hang, unplug   faults, see webdriver.cjs
 */

const CLASSES = {
  label: "android.widget.TextView",
  button: "android.widget.Button",
  field: "android.widget.EditText",
};

/** The description in `text`; throws an Error when it is not one. */
function parse(text) {
  const description = JSON.parse(text);
  for (const key of ["package", "activity", "version", "start", "screens"]) {
    if (!description[key]) throw new Error(`an app description needs "${key}"`);
  }
  return description;
}

class App {
  #server;
  #state;
  #screen;
  #visit = 0;
  #focused;

  /** `server`: the variables shared by all sessions of this build; changed in place. */
  constructor(description, server) {
    this.description = description;
    this.#server = server;
    this.#state = { ...description.state };
    this.#screen = description.start;
  }

  get screen() {
    return this.#screen;
  }

  /** The elements on the screen now, top to bottom. A key names an element until the screen is left. */
  elements() {
    return this.description.screens[this.#screen]
      .map((element, index) => ({
        ...element,
        key: `${this.#visit}.${index}`,
        class: CLASSES[element.kind ?? "label"],
        text: this.#textOf(element),
      }))
      .filter((element) => this.#holds(element));
  }

  tap(element) {
    this.#focused = element.into;
    const step = stepsOf(element.tap).find((candidate) => this.#holds(candidate));
    if (!step) return;
    for (const [name, value] of Object.entries(step.set ?? {})) this.#put(name, value);
    for (const [name, value] of Object.entries(step.add ?? {})) this.#put(name, this.#get(name) + value);
    if (step.go) this.#open(step.go);
  }

  /** Appends to a field, as Android does with sendKeys; false if the element takes no text. */
  type(element, text) {
    if (!element.into) return false;
    this.#put(element.into, this.#get(element.into) + text);
    return true;
  }

  /** Types into the field that was tapped last; false if there is none. */
  typeIntoFocused(text) {
    return this.type({ into: this.#focused }, text);
  }

  clear(element) {
    if (!element.into) return false;
    this.#put(element.into, "");
    return true;
  }

  #open(screen) {
    this.#screen = screen;
    this.#visit += 1;
    this.#focused = undefined;
  }

  #textOf(element) {
    if (!element.into) return this.#fill(element.text);
    const value = this.#get(element.into);
    if (value === "") return element.hint;
    return element.secret ? "•".repeat(value.length) : value;
  }

  #fill(text) {
    return text.replace(/\{(\w+)(:money)?\}/g, (_, name, money) =>
      money ? `$${(this.#get(name) / 100).toFixed(2)}` : String(this.#get(name)),
    );
  }

  #holds({ when = {}, unless, matches, text }) {
    const equal = (values) => Object.entries(values).every(([name, value]) => this.#get(name) === value);
    if (!equal(when) || (unless && equal(unless))) return false;
    return !matches || text.toLowerCase().includes(this.#get(matches).toLowerCase());
  }

  #home(name) {
    if (Object.hasOwn(this.#server, name)) return this.#server;
    if (Object.hasOwn(this.#state, name)) return this.#state;
    throw new Error(`the app description has no variable "${name}"`);
  }

  #get(name) {
    return this.#home(name)[name];
  }

  #put(name, value) {
    this.#home(name)[name] = value;
  }
}

function stepsOf(tap) {
  if (tap === undefined) return [];
  if (typeof tap === "string") return [{ go: tap }];
  return Array.isArray(tap) ? tap : [tap];
}

module.exports = { App, parse };
