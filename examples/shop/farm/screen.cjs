"use strict";
/** What the double's screen looks like: the nodes of its view tree, their XML, a screenshot. */

const zlib = require("node:zlib");

const WIDTH = 360;
const HEIGHT = 640;
const ROW = 56;

/** The view tree as Appium shows it: the root layout, then the elements of the screen, one below the other. */
function nodesOf(app) {
  const root = { key: "root", class: "android.widget.FrameLayout", text: "", "resource-id": "" };
  root.rect = { x: 0, y: 0, width: WIDTH, height: HEIGHT };
  const elements = app.elements().map((element, row) => ({
    ...element,
    "resource-id": element.id,
    rect: { x: 16, y: 24 + row * ROW, width: WIDTH - 32, height: ROW - 16 },
  }));
  return [root, ...elements];
}

/** The element under a point, if any. */
function nodeAt(nodes, x, y) {
  const covers = (from, length, at) => at >= from && at < from + length;
  return nodes.slice(1).find(({ rect }) => covers(rect.x, rect.width, x) && covers(rect.y, rect.height, y));
}

function xmlOf([root, ...elements]) {
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    "<hierarchy>",
    `  <${root.class} ${attributes(root)}>`,
    ...elements.map((node) => `    <${node.class} ${attributes(node)}/>`),
    `  </${root.class}>`,
    "</hierarchy>",
  ].join("\n");
}

function attributes({ class: className, text, "resource-id": id, rect }) {
  const bounds = `[${rect.x},${rect.y}][${rect.x + rect.width},${rect.y + rect.height}]`;
  return Object.entries({ class: className, text, "resource-id": id, bounds, displayed: "true" })
    .map(([name, value]) => `${name}="${escape(value)}"`)
    .join(" ");
}

function escape(text) {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}

const PALETTE = [0xf4f1ea, 0x2b2b2b, 0xffffff, 0x2f6f4f];
const [PAPER, INK, WHITE, GREEN] = PALETTE.keys();
const STYLES = {
  label: { fill: PAPER, ink: INK },
  field: { fill: WHITE, ink: INK },
  button: { fill: GREEN, ink: WHITE },
};

// Capital letters of 3 by 5 dots: one octal digit is one row of three dots.
const GLYPHS = Object.fromEntries(
  ("A25755 B65656 C34443 D65556 E74647 F74644 G34553 H55755 I72227 J11152 K55655 L44447 M57755 N65555 O25552 P65644 " +
    "Q25573 R65655 S34216 T72222 U55557 V55552 W55775 X55255 Y55222 Z71247 075557 126227 261247 361216 455711 574616 " +
    "634757 771222 875757 975716 .00002 ,00024 !22202 ?61202 :02020 -00700 #57575 $36236 (12221 )42224 @25743 '22000 •02220")
    .split(" ")
    .map((entry) => [entry[0], [...entry.slice(1)].map(Number)]),
);
const DOT = 2;

/** A PNG of the screen, in base64. */
function screenshotOf(nodes) {
  const pixels = Buffer.alloc(WIDTH * HEIGHT, PAPER);
  for (const { rect, text, kind = "label" } of nodes.slice(1)) {
    fill(pixels, rect, STYLES[kind].fill);
    write(pixels, rect.x + 8, rect.y + 15, text, STYLES[kind].ink);
  }
  return png(pixels).toString("base64");
}

function fill(pixels, { x, y, width, height }, colour) {
  for (let row = y; row < Math.min(y + height, HEIGHT); row += 1) {
    pixels.fill(colour, row * WIDTH + x, row * WIDTH + Math.min(x + width, WIDTH));
  }
}

function write(pixels, left, top, text, colour) {
  [...text.toUpperCase()].forEach((character, column) => {
    (GLYPHS[character] ?? []).forEach((bits, row) => {
      for (let bit = 0; bit < 3; bit += 1) {
        if (!(bits & (4 >> bit))) continue;
        const x = left + (column * 4 + bit) * DOT;
        if (x < WIDTH - 24) fill(pixels, { x, y: top + row * DOT, width: DOT, height: DOT }, colour);
      }
    });
  });
}

/** https://www.w3.org/TR/png/: one byte per pixel, an index into PALETTE; every scan line starts with filter 0. */
function png(pixels) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(WIDTH, 0);
  header.writeUInt32BE(HEIGHT, 4);
  header.set([8, 3, 0, 0, 0], 8);
  const lines = Buffer.alloc((WIDTH + 1) * HEIGHT);
  for (let row = 0; row < HEIGHT; row += 1) pixels.copy(lines, row * (WIDTH + 1) + 1, row * WIDTH, (row + 1) * WIDTH);
  const palette = Buffer.from(PALETTE.flatMap((colour) => [colour >> 16, (colour >> 8) & 255, colour & 255]));
  return Buffer.concat([
    Buffer.from("\x89PNG\r\n\x1a\n", "latin1"),
    chunk("IHDR", header),
    chunk("PLTE", palette),
    chunk("IDAT", zlib.deflateSync(lines)),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

function chunk(type, data) {
  const named = Buffer.concat([Buffer.from(type), data]);
  const framed = Buffer.alloc(named.length + 8);
  framed.writeUInt32BE(data.length, 0);
  named.copy(framed, 4);
  framed.writeUInt32BE(crc32(named), named.length + 4);
  return framed;
}

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

module.exports = { HEIGHT, WIDTH, nodeAt, nodesOf, screenshotOf, xmlOf };
