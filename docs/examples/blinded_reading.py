# --8<-- [start:page]
from pathlib import Path

import ldct_denoise
from ldct_denoise.report.blinded_reading import BlindedReading

(low,) = ldct_denoise.read_series("patients/L001/synthetic-0/2.000000-Low Dose Images-00001")
(denoised,) = ldct_denoise.read_series("denoised")
reading = BlindedReading([(low, denoised)], ("low dose", "denoised"), slices_per_case=12)
reading.write_page(Path("reading.html"), key=Path("reading-key.json"))
# --8<-- [end:page]
header = "session,reader,reading,noise,texture,sharpness,artefacts,confidence,preference\n"
Path("ratings-1.csv").write_text(header + f"{reading.key.session},Reader 1,1,2,0,-1,0,1,1\n")
Path("ratings-2.csv").write_text(header + f"{reading.key.session},Reader 2,1,1,0,0,0,1,2\n")
# --8<-- [start:ratings]
from ldct_denoise.evaluation.reader_study import ReaderStudy

study = ReaderStudy.read(Path("reading-key.json"), [Path("ratings-1.csv"), Path("ratings-2.csv")])
print("\n".join(study.lines()))
study.write_csv(Path("ratings-unblinded.csv"))
# --8<-- [end:ratings]
