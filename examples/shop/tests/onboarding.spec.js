import { test, expect } from "appwright";

test("a new user pages through the tour to the sign-in", async ({ device }) => {
  await expect(device.getByText("Welcome to Shop")).toBeVisible();
  await device.getByText("Next").tap();
  await expect(device.getByText("Pick it, pay it, sip it")).toBeVisible();
  await device.getByText("Get started").tap();
  await expect(device.getById("password")).toBeVisible();
});
