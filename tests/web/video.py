"""Real videos, made by the browser that is to play them: none has to be kept here."""

from __future__ import annotations

import base64
import struct

from playwright.async_api import Browser

SPREAD = 12_000_000
RECORD = """async type => {
    const canvas = document.createElement("canvas"), brush = canvas.getContext("2d");
    [canvas.width, canvas.height] = [180, 320];
    const recorder = new MediaRecorder(canvas.captureStream(25), {mimeType: type});
    const parts = [], stopped = new Promise(done => { recorder.onstop = done; });
    recorder.ondataavailable = event => parts.push(event.data);
    recorder.start();
    const began = performance.now();
    for (let at = 0; at < 2000; at = performance.now() - began) {
        brush.fillStyle = at < 1000 ? "rgb(200, 0, 0)" : "rgb(0, 0, 200)";
        brush.fillRect(0, 0, 180, 320);
        await new Promise(requestAnimationFrame);
    }
    recorder.stop();
    await stopped;
    const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
    return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(""));
}"""


async def video(browser: Browser, kind: str) -> bytes:
    """Two seconds, less where the recorder is slow to begin, `webm` or `mp4`: red, and blue from
    about the middle on.
    """
    page = await browser.new_page()
    try:
        return base64.b64decode(await page.evaluate(RECORD, f"video/{kind}"))
    finally:
        await page.close()


def spread(mp4: bytes) -> bytes:
    """The same video, with `SPREAD` bytes that say nothing between its header and its pictures:
    whoever wants these soon asks for a part of the file.
    """
    at = 0
    while mp4[at + 4 : at + 8] != b"moof":
        at += int(struct.unpack(">I", mp4[at : at + 4])[0])
    return mp4[:at] + struct.pack(">I4s", SPREAD, b"free") + bytes(SPREAD - 8) + mp4[at:]
