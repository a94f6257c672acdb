import { addToCart, expect, signIn, test } from "./shop";

test("an order needs an address and ends with its number", async ({ device }) => {
  await signIn(device);
  await addToCart(device, "Green tea");
  await device.getByText("Cart (1)").tap();
  await device.getByText("Checkout").tap();
  expect(await device.getById("due").getText()).toBe("To pay: $4.50");

  await device.getByText("Pay now").tap();
  expect(await device.getById("error").getText()).toBe("Where shall we send it?");

  await device.getById("address").fill("12 St James's Square, London");
  await device.getByText("Pay now").tap();
  expect(await device.getById("order").getText()).toMatch(/^Order #\d+ goes to 12 St James's Square, London$/);
});
