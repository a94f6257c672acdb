"use strict";

/** https://www.w3.org/TR/webdriver/#errors: the HTTP status that goes with each error code. */
const STATUS = {
  "invalid argument": 400,
  "invalid element state": 400,
  "invalid selector": 400,
  "invalid session id": 404,
  "no such element": 404,
  "stale element reference": 404,
  "unknown command": 404,
  "unknown error": 500,
  "unknown method": 405,
};

class WebDriverError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
    this.status = STATUS[code];
  }

  get body() {
    return { value: { error: this.code, message: this.message, stacktrace: "" } };
  }
}

module.exports = { WebDriverError };
