#!/bin/bash
# plot_moe.sh [OUT.svg] - draws docs/moe_h200.svg from bench/results.  Needs gnuplot (Debian: gnuplot-nox).
set -eu
cd "$(dirname "$0")/.."
out=${1:-docs/moe_h200.svg}
whole=bench/results/2026-12-01-h200-moe-last.csv
sustained=bench/results/2026-12-01-h200-moe-experts-sustained.csv
peers=bench/results/2026-11-21-h200-moe-peers.csv
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT

# pick FILE SHAPE COLUMN...: the named columns of the shape's rows, blanks left out; where there are several rests, rows of 20 ms
pick() {
	local file=$1 shape=$2
	shift 2
	awk -F, -v shape="$shape" -v want="$*" '
		/^#/ { next }
		!n { n = split(want, w, " "); for (i = 1; i <= NF; i++) at[$i] = i; for (i = 1; i <= n; i++) if (!at[w[i]]) { print FILENAME ": no column " w[i] > "/dev/stderr"; exit 1 }; next }
		$at["shape"] == shape && (!at["rest_ms"] || $at["rest_ms"] == 20) {
			line = ""
			for (i = 1; i <= n; i++) { if ($at[w[i]] == "") next; line = line " " $at[w[i]] }
			print line
		}' "$file"
}
for s in ds 20b; do
	pick "$whole" $s n_tok floor_us > "$T/$s.floor"
	pick "$whole" $s n_tok us > "$T/$s.whole"
	pick "$sustained" $s n_tok us > "$T/$s.sustained"
	pick "$whole" $s n_tok goal_us > "$T/$s.goal"
	for p in marlin_us triton_us triton_matmuls_us flashinfer_us; do
		pick "$peers" $s n_tok $p > "$T/$s.$p"
	done
	for f in floor whole sustained goal marlin_us triton_us triton_matmuls_us; do
		[ -s "$T/$s.$f" ] || { echo "plot_moe.sh: nothing to draw for $s.$f" >&2; exit 1; }
	done
done

(cd "$T" && gnuplot) <<GP
set terminal svg size 1200,690 font "DejaVu Sans,13" background "#ffffff"
set output "plot.svg"
set multiplot layout 1,2 margins 0.068,0.985,0.09,0.79 spacing 0.055,0 \
	title "MXFP4 experts on one NVIDIA H200: time of one layer against tokens\n{/*0.85 Bold line: routing included, 2026-12-01.  Thin line: experts alone, no pauses, as the peers ran (2026-11-21).  What each includes: docs/performance.md}"
set logscale xy
set xlabel "tokens in the batch" offset 0,0.3
set ylabel "microseconds per layer" offset 1.8
set grid xtics ytics mytics lt 1 lc rgb "#dcdcdc" lw 0.8, lt 1 lc rgb "#f0f0f0" lw 0.6
set xtics ("1" 1, "4" 4, "16" 16, "64" 64, "256" 256, "1024" 1024, "4096" 4096) nomirror
set ytics nomirror
set border 3 lc rgb "#808080"
set tics textcolor rgb "#303030"
set style line 1 lc rgb "#404040" lw 1.6 dt (6,5)
set style line 2 lc rgb "#0060c0" lw 3 pt 7 ps 0.55
set style line 3 lc rgb "#5a9ae0" lw 1.3
set style line 4 lc rgb "#d05000" pt 5 ps 0.75
set style line 5 lc rgb "#0a8a5a" pt 9 ps 0.95
set style line 6 lc rgb "#0a8a5a" pt 8 ps 0.95 lw 1.3
set style line 7 lc rgb "#9030a0" pt 13 ps 1.0
set style line 8 lc rgb "#202020" pt 1 ps 0.8 lw 1.3

set xrange [0.8:11000]
set label 1 at graph 0.5, 1.03 center font ",14"

set key at screen 0.512, 0.893 center maxrows 2 reverse Left samplen 2 width -6 spacing 1.2 font ",12" nobox
set yrange [10:20000]
set label 1 "4096 / 2048, 256 experts, 6 a token (DeepSeek-V4-Flash)"
plot "ds.marlin_us" w p ls 4 t "vLLM's Marlin", \
     "ds.triton_us" w p ls 5 t "triton\\\\_kernels 3.5 with routing", \
     "ds.triton_matmuls_us" w p ls 6 t "triton\\\\_kernels 3.5, products alone", \
     "ds.flashinfer_us" w p ls 7 t "FlashInfer (published)", \
     "ds.goal" w p ls 8 t "goals, routing included", \
     "ds.sustained" w l ls 3 t "Moxie without pauses, 2026-12-01", \
     "ds.whole" w lp ls 2 t "Moxie, 20 ms of rest", \
     "ds.floor" w l ls 1 t "floor: 4.3 TB/s or 790 TFLOP/s"

unset key
unset ylabel
set yrange [8:8000]
set label 1 "2880 / 2880, 32 experts, 4 a token (GPT-OSS-20B)"
plot "20b.marlin_us" w p ls 4, "20b.triton_us" w p ls 5, "20b.triton_matmuls_us" w p ls 6, "20b.goal" w p ls 8, \
     "20b.sustained" w l ls 3, "20b.whole" w lp ls 2, "20b.floor" w l ls 1
unset multiplot
GP
sed -i 's/font-family="DejaVu Sans"/font-family="DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"/g' "$T/plot.svg"
mv "$T/plot.svg" "$out"
echo "$out"
