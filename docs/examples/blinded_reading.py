# --8<-- [start:page]
from pathlib import Path

import ldct_denoise
from ldct_denoise.report.interactive import BlindedReading

(low,) = ldct_denoise.read_series("patients/L001/synthetic-0/2.000000-Low Dose Images-00001")
(denoised,) = ldct_denoise.read_series("denoised")
reading = BlindedReading(low, denoised, ("low dose", "denoised"), indices=range(len(low)), seed=7)
reading.write_page(Path("reading.html"))
# --8<-- [end:page]
Path("ratings.csv").write_text("reading,choice\n0,A\n1,B\n")
# --8<-- [start:ratings]
reading.read_csv(Path("ratings.csv"))
for row in reading.table():
    print(row)
# --8<-- [end:ratings]
