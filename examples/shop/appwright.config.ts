import { defineConfig, Platform } from "appwright";

const platform = Platform.ANDROID;
const buildPath = process.env.APP_BUILD_PATH ?? "builds/1.0.0.apk";

const config = defineConfig({
  reporter: [["list"]],
  workers: 1, // a session has one device
  use: { expectTimeout: 5_000 },
  projects: [
    {
      name: "emulator",
      use: { platform, buildPath, device: { provider: "emulator", osVersion: "14" } },
    },
    {
      name: "device",
      use: { platform, buildPath, device: { provider: "local-device" } },
    },
    {
      name: "browserstack",
      use: { platform, buildPath, device: { provider: "browserstack", name: "Google Pixel 8", osVersion: "14.0" } },
    },
  ],
});

// appwright's global setup uploads the build on every run. Whoever set this address has uploaded it once for all.
if (process.env.BROWSERSTACK_APP_URL_BROWSERSTACK) delete config.globalSetup;

export default config;
