import { expect, signIn, test } from "./shop";

test("searching narrows the catalog", async ({ device }) => {
  await signIn(device);
  await expect(device.getByText("Copper kettle")).toBeVisible();

  await device.getById("search").sendKeyStrokes("tea");
  await expect(device.getByText("Green tea")).toBeVisible();
  await expect(device.getByText(/^Tea cup/)).toBeVisible();
  expect(await device.getByText("Copper kettle").isVisible({ timeout: 500 })).toBe(false);
});
