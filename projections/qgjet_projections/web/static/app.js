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

  function localize(root) {
    for (const element of root.querySelectorAll("time[datetime]")) {
      const at = new Date(element.dateTime);
      if (isNaN(at)) continue;
      element.title = `${day(at)} ${clock(at)} (${zone}), ${element.dateTime}`;
      element.textContent = element.dataset.show === "ago" ? ago(at) : element.dataset.show === "day" ? `${day(at)} ${clock(at)}` : clock(at);
    }
  }

  if (window.Idiomorph) {
    const callbacks = Idiomorph.defaults.callbacks;
    Idiomorph.defaults.ignoreActiveValue = true;
    callbacks.beforeNodeMorphed = (old, fresh) => {
      if (!(old instanceof Element)) return true;
      if (old.matches("time[datetime]") && fresh.dateTime === old.dateTime) return false; // it reads right already
      return !old.matches("details.ask[open], [data-keep]"); // somebody is at it
    };
    callbacks.beforeAttributeUpdated = (name, element) => !(name === "open" && element.tagName === "DETAILS");
  }

  document.addEventListener("htmx:sseOpen", () => { document.body.dataset.live = "on"; });
  document.addEventListener("htmx:sseError", () => { document.body.dataset.live = "off"; });
  document.addEventListener("htmx:afterSettle", () => { localize(document); follow(document); });
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

  // -- the log of an attempt: /jobs/<id>/log as server-sent events

  const MOST_LINES = 20000;

  function follow(root) {
    for (const box of root.querySelectorAll("[data-log]")) {
      if (box.dataset.followed) continue;
      box.dataset.followed = "yes";
      new Log(box);
    }
  }

  class Log {
    constructor(box) {
      this.pre = box.querySelector("pre");
      this.state = box.querySelector("[data-state]");
      this.search = box.querySelector("input[type=search]");
      this.lines = [];
      this.waiting = [];
      this.pre.textContent = "";
      this.search.addEventListener("input", () => this.redraw());
      this.source = new EventSource(box.dataset.log);
      this.source.onmessage = event => this.add(event.data);
      this.source.addEventListener("bytes", event => this.add(new TextDecoder().decode(Uint8Array.from(atob(event.data), c => c.charCodeAt(0))).replace(/\r?\n$/, "")));
      this.source.addEventListener("live", () => this.say("following"));
      this.source.addEventListener("end", () => { this.source.close(); this.say("complete"); });
      this.source.onerror = () => this.say(this.source.readyState === EventSource.CLOSED ? "the output cannot be read" : "reconnecting");
    }

    say(text) { this.state.textContent = text; }

    add(text) {
      // colours and other terminal sequences say nothing here
      this.waiting.push(text.replace(/\x1b\[[0-9;?]*[A-Za-z]/g, "").replace(/[\x00-\x08\x0b-\x1f\x7f]/g, "\ufffd"));
      if (this.waiting.length === 1) requestAnimationFrame(() => this.flush());
    }

    flush() {
      const atEnd = this.pre.scrollHeight - this.pre.scrollTop - this.pre.clientHeight < 40;
      const fresh = this.waiting.splice(0);
      this.lines.push(...fresh);
      if (this.lines.length > MOST_LINES) { this.lines.splice(0, this.lines.length - MOST_LINES); this.redraw(); }
      else this.pre.append(this.drawn(fresh));
      if (atEnd) this.pre.scrollTop = this.pre.scrollHeight;
    }

    redraw() { this.pre.replaceChildren(this.drawn(this.lines)); }

    drawn(lines) {
      const wanted = this.search.value.toLowerCase();
      const part = document.createDocumentFragment();
      for (const line of lines) {
        if (!wanted) { part.append(line + "\n"); continue; }
        let from = 0, at = line.toLowerCase().indexOf(wanted);
        if (at < 0) continue;
        while (at >= 0) {
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
