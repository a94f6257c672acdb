#!/usr/bin/env node
"use strict";
/** Exit 0 if the farm of this session (FARM_URL) answers. */

async function main() {
  const response = await fetch(`${process.env.FARM_URL}/status`, { signal: AbortSignal.timeout(5_000) });
  const { value } = await response.json();
  if (!value.ready) throw new Error(value.message);
}

main().catch((error) => {
  console.error(`The farm at ${process.env.FARM_URL} does not answer: ${error.cause ?? error.message}`);
  process.exit(1);
});
