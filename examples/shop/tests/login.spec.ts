import { expect, test } from "./shop";

test("a wrong password is refused, the right one opens the catalog", async ({ device }) => {
  await device.getByText("Skip").tap();
  await device.getById("email").fill("ada@example.com");
  await device.getById("password").fill("difference");
  await device.getById("sign_in").tap();
  expect(await device.getById("error").getText()).toBe("Wrong e-mail or password");

  await device.getById("password").fill("analytical");
  await device.getById("sign_in").tap();
  await expect(device.getByText("Catalog", { exact: true })).toBeVisible();
});
