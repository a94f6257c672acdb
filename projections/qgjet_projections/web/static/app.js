// What HTML cannot do by itself: times in the reader's zone, a page that moves without losing its place, and a log that follows.
"use strict";
(() => {
  const pad = number => String(number).padStart(2, "0");
  const day = at => `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
  const clock = at => `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

  function ago(at) {
    const seconds = Math.max((Date.now() - at) / 1000, 0);
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
    return `${Math.floor(seconds)} s`;
  }

  function say(element, text) { // what says it already is left alone: somebody may have selected it
    const only = element.childNodes.length === 1 && element.firstChild;
    if (!(only instanceof Text)) element.textContent = text;
    else if (only.data !== text) only.data = text;
  }

  function localize(root) {
    for (const element of root.querySelectorAll("time[datetime]")) {
      const at = new Date(element.dateTime);
      if (isNaN(at)) continue;
      const title = `${day(at)} ${clock(at)} (${zone}), ${element.dateTime}`;
      if (element.title !== title) element.title = title;
      say(element, element.dataset.show === "ago" ? ago(at) : element.dataset.show === "day" ? `${day(at)} ${clock(at)}` : clock(at));
    }
    for (const element of root.querySelectorAll("text[data-at]")) { // in a drawing
      const at = new Date(element.dataset.at);
      if (!isNaN(at)) say(element, element.closest(".chart") ? clock(at).slice(0, 5) : clock(at));
    }
  }

  if (window.Idiomorph) {
    const callbacks = Idiomorph.defaults.callbacks;
    Idiomorph.defaults.ignoreActiveValue = true;
    callbacks.beforeNodeMorphed = (old, fresh) => {
      if (!(old instanceof Element)) return true;
      if (old.matches("time[datetime]") && fresh.dateTime === old.dateTime) return false; // it reads right already
      if (old.dataset.log && fresh.dataset.log !== old.dataset.log) return true; // another attempt has begun
      return !old.matches("details.ask[open], [data-keep]"); // somebody is at it
    };
    callbacks.beforeNodeRemoved = old => !(old instanceof Element && old.id === "said"); // it is said once, and stays until the page is left
    callbacks.beforeAttributeUpdated = (name, element) => !(name === "open" && element.tagName === "DETAILS");
  }

  document.addEventListener("htmx:sseOpen", () => {
    const before = document.body.dataset.live;
    document.body.dataset.live = "on";
    if (before === "off") htmx.trigger(".pulse", "sse:changed"); // not all that a page shows is in the log, which the events resume by
  });
  document.addEventListener("htmx:sseError", event => {
    document.body.dataset.live = "off";
    // refused, not cut off: the page itself is told why, such as a token that is over
    if (event.detail.source.readyState === EventSource.CLOSED) htmx.trigger(".pulse", "sse:changed");
  });
  document.addEventListener("htmx:afterSwap", () => { localize(document); follow(document); }); // before anything is painted
  document.addEventListener("click", event => { // one question at a time; a click elsewhere takes it back
    for (const open of document.querySelectorAll("details.ask[open]")) if (!open.contains(event.target)) open.open = false;
  });
  document.addEventListener("keydown", event => {
    if (event.key === "Escape") for (const open of document.querySelectorAll("details.ask[open]")) { open.open = false; open.querySelector("summary").focus(); }
    if (event.key === "/" && !event.target.closest("input, textarea, select")) {
      const search = document.querySelector("input[type=search]");
      if (search) { event.preventDefault(); search.focus(); }
    }
  });

  document.addEventListener("formdata", event => { // what was picked is in the reader's zone
    for (const {name, value} of event.target.querySelectorAll("input[type=datetime-local]")) if (value) event.formData.set(name, new Date(value).toISOString());
  });

  document.addEventListener("formdata", event => { // an address says what is asked for, and not what is not
    if (event.target.matches("form.filters")) for (const [name, value] of [...event.formData]) if (!value) event.formData.delete(name);
  });

  // -- the log of an attempt: /jobs/<id>/log as server-sent events

  const MOST_LINES = 20000, LONGEST_LINE = 2000, MOST_MARKS = 1000; // more than these, and the browser is busy with nothing else; all of it is in "Plain text"
  const logs = new WeakMap();

  function follow(root) {
    for (const box of root.querySelectorAll("[data-log]")) {
      const before = logs.get(box);
      if (before && before.url === box.dataset.log) continue;
      if (before) before.source.close();
      logs.set(box, new Log(box, before));
    }
  }

  class Log {
    constructor(box, before) {
      this.url = box.dataset.log;
      this.pre = box.querySelector("pre");
      this.state = box.querySelector("[data-state]");
      this.search = box.querySelector("input[type=search]");
      this.lines = [];
      this.marks = 0;
      this.waiting = [];
      this.pre.textContent = "";
      if (before) this.search.removeEventListener("input", before.searched);
      this.searched = () => this.redraw();
      this.search.addEventListener("input", this.searched);
      this.source = new EventSource(this.url);
      this.source.onmessage = event => this.add(event.data);
      this.source.addEventListener("bytes", event => this.add(new TextDecoder().decode(Uint8Array.from(atob(event.data), c => c.charCodeAt(0))).replace(/\r?\n$/, "")));
      this.source.addEventListener("live", () => this.say("following"));
      this.source.addEventListener("end", () => { this.source.close(); this.ended(); });
      this.source.onerror = () => this.say(this.source.readyState === EventSource.CLOSED ? "the output cannot be read" : "reconnecting");
    }

    async ended() {
      if (!this.lines.length && !this.waiting.length) { // what came live is kept for some days, the whole output longer
        const answer = await fetch(this.url).catch(() => null);
        const text = answer && answer.ok ? await answer.text() : "";
        if (text) for (const line of text.replace(/\n$/, "").split("\n")) this.add(line);
      }
      this.say(this.lines.length || this.waiting.length ? "complete" : "it has written nothing");
    }

    say(text) { this.state.textContent = text; }

    add(text) {
      // colours and other terminal sequences say nothing here
      const plain = text.replace(/\x1b\[[0-9;?]*[A-Za-z]/g, "").replace(/[\x00-\x08\x0b-\x1f\x7f]/g, "\ufffd");
      this.waiting.push(plain.length > LONGEST_LINE ? `${plain.slice(0, LONGEST_LINE)}… and ${plain.length - LONGEST_LINE} more characters` : plain);
      if (this.waiting.length === 1) requestAnimationFrame(() => this.flush());
    }

    flush() {
      const atEnd = this.pre.scrollHeight - this.pre.scrollTop - this.pre.clientHeight < 40;
      const fresh = this.waiting.splice(0);
      this.lines.push(...fresh);
      const excess = this.lines.length - MOST_LINES;
      if (excess > 0) this.lines.splice(0, excess);
      if (excess > 0 && (this.search.value || excess > MOST_LINES / 2)) this.redraw();
      else {
        this.pre.append(this.drawn(fresh));
        for (let gone = 0; gone < excess; gone++) this.pre.firstChild.remove(); // a line is a node when nothing is searched
      }
      if (atEnd) this.pre.scrollTop = this.pre.scrollHeight;
    }

    redraw() { this.marks = 0; this.pre.replaceChildren(this.drawn(this.lines)); }

    drawn(lines) {
      const wanted = this.search.value.toLowerCase();
      const part = document.createDocumentFragment();
      for (const line of lines) {
        if (!wanted) { part.append(line + "\n"); continue; }
        let from = 0, at = line.toLowerCase().indexOf(wanted);
        if (at < 0) continue;
        while (at >= 0 && this.marks < MOST_MARKS) {
          this.marks++;
          const mark = document.createElement("mark");
          mark.textContent = line.slice(at, at + wanted.length);
          part.append(line.slice(from, at), mark);
          from = at + wanted.length;
          at = line.toLowerCase().indexOf(wanted, from);
        }
        part.append(line.slice(from) + "\n");
      }
      return part;
    }
  }

  localize(document);
  follow(document);
  setInterval(() => localize(document), 5000);
})();
