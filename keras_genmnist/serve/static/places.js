// Places on the map: latent coordinates, the first to the right and the second up.

export const EDGE = 3; // it shows [-EDGE, EDGE] squared: all but 0.5 % of a standard normal's draws

/** A place as shares of the map's width and height, from the top left. */
export const share = ([x, y]) => [(x + EDGE) / (2 * EDGE), (EDGE - y) / (2 * EDGE)];

/** Puts a mark at a place. */
export function place(mark, z) {
  const [left, top] = share(z);
  mark.style.left = `${100 * left}%`;
  mark.style.top = `${100 * top}%`;
}
