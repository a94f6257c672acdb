"use strict";
// appwright loads this file always and calls it only with OPENAI_API_KEY or GOOGLE_API_KEY set.
function absent() {
  throw new Error("This project leaves @empiricalrun/llm out: device.beta cannot be used (see README.md)");
}

module.exports = { query: absent, getBoundingBox: absent };
