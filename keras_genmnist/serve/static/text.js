// How numbers and latents are written.

/** A number with a true minus sign. */
export function figure(value, digits = 2) {
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

/** The name of a latent, from 0, as HTML. */
export function symbol(index) {
  return `<i>z</i><sub>${index + 1}</sub>`;
}
