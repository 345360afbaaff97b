// Parts of a map of attention. The playground imports them; a written page has this text within attention.js.

// what a weight from 0 to 1 looks like: [red, green, blue] of a ramp, by the weight's root
export function color(ramp, a) {
  const x = Math.sqrt(Math.min(Math.max(a, 0), 1)) * (ramp.length - 1), i = Math.min(Math.floor(x), ramp.length - 2);
  return ramp[i].map((c, k) => Math.round(c + (x - i) * (ramp[i + 1][k] - c)));
}

// tokens to the left of the map's rows and above its columns, in margins so wide
export function write_names(pen, pieces, margin, cell) {
  pen.fillStyle = getComputedStyle(pen.canvas).color;
  pen.font = "12px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace";
  pieces.forEach((piece, i) => {
    const name = piece.length > 11 ? piece.slice(0, 10) + "\u2026" : piece, middle = margin + (i + 0.5) * cell;
    pen.textAlign = "right";
    pen.fillText(name, margin - 5, middle + 4, margin - 8);
    pen.save();
    pen.translate(middle + 4, margin - 5);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "left";
    pen.fillText(name, 0, 0, margin - 8);
    pen.restore();
  });
}
