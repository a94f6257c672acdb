"use strict";
/**
 * upload.cjs FILE: uploads a build to BrowserStack and prints its bs:// address.
 * Nothing here knows of the double: farm/redirect.cjs sends the request there.
 */

const fs = require("node:fs");
const path = require("node:path");

async function main(file) {
  const { BROWSERSTACK_USERNAME: user, BROWSERSTACK_ACCESS_KEY: key } = process.env;
  const form = new FormData();
  form.append("file", new Blob([fs.readFileSync(file)]), path.basename(file));
  const response = await fetch("https://api-cloud.browserstack.com/app-automate/upload", {
    method: "POST",
    headers: { authorization: `Basic ${Buffer.from(`${user}:${key}`).toString("base64")}` },
    body: form,
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`HTTP ${response.status} ${text}`);
  console.log(JSON.parse(text).app_url);
}

main(process.argv[2]).catch((error) => {
  console.error(`Upload of ${process.argv[2]} to BrowserStack failed: ${error.cause ?? error.message}`);
  process.exit(1);
});
