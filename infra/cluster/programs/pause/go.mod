module countersign/programs/pause

go 1.24.0

tool countersign/programs/pause
