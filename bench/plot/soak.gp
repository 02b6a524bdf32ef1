# SPDX-License-Identifier: MIT
# Memory, descriptors and slots over a soak. Called by plots.
set xlabel "minutes" offset 0,0.2
set ylabel "times the median of the second quarter"
set yrange [0:2.5]
plot for [i = 0:n_series - 1] data index i using 1:2 with lines linetype series_style(i) title series_name(i)
