// Latent vectors.

/** A draw from the standard normal distribution, by Box and Muller. */
export function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

/** A draw from the standard normal distribution of `size` dimensions. */
export function randomVector(size) {
  return Array.from({ length: size }, normal);
}

/** alpha z1 + (1 - alpha) z2. */
export function mix(alpha, z1, z2) {
  return z1.map((value, i) => alpha * value + (1 - alpha) * z2[i]);
}
