import { addToCart, expect, signIn, test } from "./shop";

test("what is taken out of the cart is not charged", async ({ device }) => {
  await signIn(device);
  await addToCart(device, "Green tea");
  await addToCart(device, "Copper kettle");
  await device.getByText("Cart (2)").tap();
  expect(await device.getById("total").getText()).toBe("Total $44.40");

  await device.getByText("Remove tea").tap();
  expect(await device.getById("total").getText()).toBe("Total $39.90");
});
