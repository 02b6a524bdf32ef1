# SPDX-License-Identifier: MIT
# Blackouts of migrations by how long the writes take that they wait for. Called by plots.
set logscale xy
set xlabel "length of the writes under way" offset 0,0.2
set ylabel "writes refused for"
eval "set xtics " . ms_ticks
eval "set ytics " . ms_ticks
plot x with lines linetype 17 title "as long as a write", \
	for [i = 0:n_series - 1] data index i using 1:2 with linespoints linetype series_style(i) title series_name(i)
