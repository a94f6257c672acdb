import { expect, signIn, test } from "./shop";

test("a nickname is saved, and signing out leads back to the sign-in", async ({ device }) => {
  await signIn(device);
  await device.getByText("Profile").tap();
  await expect(device.getByText("Signed in as ada@example.com")).toBeVisible();

  await device.getById("nickname").fill("Countess");
  await device.getByText("Save").tap();
  expect(await device.getById("saved").getText()).toBe("Saved: we will call you Countess");

  await device.getByText("Sign out").tap();
  await expect(device.getById("sign_in")).toBeVisible();
});
