#!/bin/bash
# plot_model.sh [OUT.svg] - draws docs/model_h200.svg: tokens a second of gpt-oss-20b against the batch.  Needs gnuplot (gnuplot-nox).
set -eu
cd "$(dirname "$0")/.."
out=${1:-docs/model_h200.svg}
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT

# Ours, the last word on each batch at 1024 tokens of prompt; floor = batch / floor time.
R=bench/results
last() { # DENSE FILE...: batch, tok/s, floor of the 20b shape with dense weights in bf16 or fp8
	local dense=$1
	shift
	awk -v fp8="$([ "$dense" = fp8 ] && echo 1 || echo 0)" '/^==/ { on = 0 } /^# moxie/ { on = /gpt-oss-20b/ && /dense weights in fp8/ == fp8 } on && $2 == 1024 && $5 == "|" { tok[$1] = $6; floor[$1] = 1000 * $1 / $(11) }
		END { for (b in tok) print b, tok[b], floor[b] }' "$@" | sort -n
}
last bf16 $R/2026-12-01-h200-last.txt > "$T/ours"
last fp8 $R/2026-12-01-h200-last.txt > "$T/fp8"
sed -n 's/.*"batch": \([0-9]*\),.*"tok_s": \([0-9.]*\).*/\1 \2/p' bench/results/2026-11-21-h200-transformers.jsonl > "$T/transformers"
printf '1 311\n64 8377\n128 12539\n' > "$T/published"
printf '1 800\n8 4000\n64 15000\n128 25000\n' > "$T/goal"
for f in ours fp8 transformers; do [ -s "$T/$f" ] || { echo "plot_model.sh: nothing to draw for $f" >&2; exit 1; }; done

(cd "$T" && gnuplot) <<GP
set terminal svg size 900,560 font "DejaVu Sans,13" background "#ffffff"
set output "plot.svg"
set title "gpt-oss-20b shape on one NVIDIA H200, 2026-12-01: decoding after 1024 tokens\n{/*0.85 Moxie: random weights, greedy, everything included.  Published: the best servers known, not measured by us}"
set logscale xy
set xlabel "requests in the batch"
set ylabel "tokens a second, all requests"
set xrange [0.9:150]
set yrange [20:60000]
set xtics (1, 2, 4, 8, 16, 32, 64, 128)
set grid ytics lc rgb "#dddddd"
set key bottom right
plot "ours" using 1:3 with lines lw 1.5 dt 2 lc rgb "#888888" title "what memory allows, even routing", \
	"ours" using 1:2 with linespoints lw 2.5 pt 7 ps 0.7 lc rgb "#0b6e4f" title "Moxie", \
	"fp8" using 1:2 with points pt 6 ps 1 lw 1.5 lc rgb "#0b6e4f" title "Moxie, --dense-dtype fp8", \
	"goal" with points pt 4 ps 1 lc rgb "#0b6e4f" title "goal", \
	"published" with points pt 5 ps 0.9 lc rgb "#c1440e" title "best published figures", \
	"transformers" with points pt 9 ps 1 lc rgb "#3366aa" title "transformers 5.17, bf16, measured beside ours"
GP
mv "$T/plot.svg" "$out"
