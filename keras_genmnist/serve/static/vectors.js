// Latent vectors.

/** alpha z1 + (1 - alpha) z2. */
export function mix(alpha, z1, z2) {
  return z1.map((value, i) => alpha * value + (1 - alpha) * z2[i]);
}
