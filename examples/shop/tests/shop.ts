import { writeFile } from "node:fs/promises";
import { test as base, expect, type Device } from "appwright";

/** appwright's test, which also keeps what the screen showed when a test failed. */
export const test = base.extend<{ lastScreen: void }>({
  lastScreen: [
    async ({ device }, use, testInfo) => {
      await use();
      if (testInfo.status === testInfo.expectedStatus) return;
      // appwright 0.1.1 has no public call for a screenshot. A dead session has no screen: then the report has none.
      const screen = await device["webdriverClient"].takeScreenshot().catch(() => undefined);
      if (!screen) return;
      const path = testInfo.outputPath("screen.png");
      await writeFile(path, screen, "base64");
      await testInfo.attach("screen", { path, contentType: "image/png" });
    },
    { auto: true },
  ],
});

export { expect };

export async function signIn(device: Device) {
  await device.getByText("Skip").tap();
  await device.getById("email").fill("ada@example.com");
  await device.getById("password").fill("analytical");
  await device.getById("sign_in").tap();
}

/** From the catalog: opens a product and puts it into the cart, which leads back to the catalog. */
export async function addToCart(device: Device, product: string) {
  await device.getByText(product).tap();
  await device.getByText("Add to cart").tap();
}
