# SPDX-License-Identifier: MIT
# How long single calls take, by the share of calls that take longer. Called by plots.
set logscale y
set xlabel "share of look-ups that take longer" offset 0,0.2
set ylabel "one look-up"
set xtics ("50 %%" 0.3, "10 %%" 1, "1 %%" 2, "0.1 %%" 3, "0.01 %%" 4, "the longest" 5)
eval "set ytics " . ns_ticks
set key inside left top
set rmargin 6
plot for [i = 0:n_series - 1] data index i using 1:2 with linespoints linetype series_style(i) title series_name(i)
