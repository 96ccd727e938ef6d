"""Loan approval: would this application be approved, is the answer fair, and why not?"""

from __future__ import annotations

from workflows.declare import Artifact, FanOut, Gate, Kind, Pipeline, Plot, Resources, Schedule, Serves, Source, Step

# --- What comes in
application = Source(
    name="application",
    kind=Kind.TABLE,
    at="data/loan_approval/application/application.csv",
    schema="data/loan_approval/application/schema.yaml",
    description="What the applicant wrote on the form, with the bank's decision",
)
credit_bureau = Source(
    name="credit_bureau",
    kind=Kind.TABLE,
    at="data/loan_approval/credit_bureau/credit_bureau.parquet",
    schema="data/loan_approval/credit_bureau/schema.yaml",
    description="What the credit bureau knew of the applicant",
)
champion = Source(
    name="champion",
    kind=Kind.REPORT,
    at="data/loan_approval/champion/champion.json",
    description="The model now in use, if any, with its decision rule",
)

# --- What is made on the way
applications = Artifact(name="applications", kind=Kind.TABLE, description="Both sources, joined on the application")
ingestion = Artifact(name="ingestion", kind=Kind.REPORT, description="Rows read, joined and dropped, and why")
masked = Artifact(name="masked", kind=Kind.TABLE, description="Applications without direct identifiers")
masking = Artifact(name="masking", kind=Kind.REPORT, description="What was masked, and k-anonymity of what is left")
privacy_verdicts = Artifact(name="privacy_verdicts", kind=Kind.REPORT)
valid = Artifact(name="valid", kind=Kind.TABLE, description="Applications that meet the schema")
quarantine = Artifact(name="quarantine", kind=Kind.TABLE, description="Applications that do not, with reasons")
validation = Artifact(name="validation", kind=Kind.REPORT, description="Rows checked and quarantined, by reason")
quality_verdicts = Artifact(name="quality_verdicts", kind=Kind.REPORT)
train_rows = Artifact(name="train_rows", kind=Kind.TABLE, description="Subject, fold, label and features to learn from")
train_protected = Artifact(name="train_protected", kind=Kind.TABLE, description="Protected attributes of the same subjects")
holdout_rows = Artifact(name="holdout_rows", kind=Kind.TABLE, description="Subject, label and features never learned from")
holdout_protected = Artifact(name="holdout_protected", kind=Kind.TABLE, description="Protected attributes of the same subjects")
trial = Artifact(name="trial", kind=Kind.REPORT, description="Best hyperparameters of one seeded search")
model = Artifact(name="model", kind=Kind.MODEL, description="The trained model")
decision_rule = Artifact(name="decision_rule", kind=Kind.REPORT, description="How a score becomes a decision")
training = Artifact(name="training", kind=Kind.REPORT, description="Parameters chosen, rounds, what fairness mitigation cost")
oof = Artifact(name="oof", kind=Kind.TABLE, decided_by=("subject", "decision"), description="Out-of-fold scores and decisions")
predictions = Artifact(name="predictions", kind=Kind.TABLE, decided_by=("subject", "decision"), description="Hold-out scores and decisions")
evaluation = Artifact(name="evaluation", kind=Kind.REPORT, metric=True, description="How well it predicts, against what")
calibration = Artifact(
    name="calibration", kind=Kind.REPORT, plot=Plot(x="predicted", y="observed"), description="Predicted against observed approval"
)
fairness = Artifact(name="fairness", kind=Kind.REPORT, description="Decisions by race, ethnicity, sex and together")
reference = Artifact(name="reference", kind=Kind.TABLE, description="Sketch of the training distribution")
drift = Artifact(name="drift", kind=Kind.REPORT, description="Hold-out against the reference, column by column")
importance = Artifact(
    name="importance",
    kind=Kind.REPORT,
    plot=Plot(x="contribution", y="feature", bars=True),
    description="Mean absolute contribution of each feature",
)
reasons = Artifact(name="reasons", kind=Kind.TABLE, description="Principal reasons of each declined application, in words")
contract = Artifact(name="contract", kind=Kind.REPORT, description="What the model may be asked, and in which words it answers")
verdicts = Artifact(name="verdicts", kind=Kind.REPORT, description="What each gate on the model said, with evidence")
evidence = Artifact(name="evidence", kind=Kind.PAGE, description="The model card and evidence page")

pipeline = Pipeline(
    name="loan_approval",
    description="Approve or decline a mortgage application",
    steps=(
        Step(name="ingest", run="steps.ingest:ingest", inputs=(application, credit_bureau), outputs=(applications, ingestion)),
        Step(
            name="mask",
            run="steps.mask:mask",
            inputs=(applications,),
            outputs=(masked, masking),
            secrets=("masking_key",),
            gates=(Gate(name="privacy", reads=masking),),
            verdicts=privacy_verdicts,
        ),
        Step(
            name="validate",
            run="steps.validate:validate",
            inputs=(masked,),
            outputs=(valid, quarantine, validation),
            gates=(Gate(name="data_quality", reads=validation),),
            verdicts=quality_verdicts,
        ),
        Step(
            name="split",
            run="steps.split:split",
            inputs=(valid,),
            outputs=(train_rows, train_protected, holdout_rows, holdout_protected),
            secrets=("masking_key",),
        ),
        Step(
            name="tune",
            run="steps.tune:tune",
            inputs=(train_rows,),
            outputs=(trial,),
            fan_out=FanOut(name="search", over=("0", "1", "2", "3")),
        ),
        Step(
            name="train",
            run="steps.train:train",
            inputs=(train_rows, train_protected, trial),
            outputs=(model, decision_rule, training, oof),
            resources=Resources(cpu="2", memory="2Gi"),
        ),
        Step(
            name="evaluate",
            run="steps.evaluate:evaluate",
            inputs=(model, decision_rule, train_rows, holdout_rows, holdout_protected, oof, champion),
            outputs=(predictions, evaluation, calibration),
        ),
        Step(
            name="fairness",
            run="steps.fairness:fairness",
            inputs=(oof, train_protected, predictions, holdout_protected),
            outputs=(fairness,),
        ),
        Step(name="sketch", run="steps.drift:sketch", inputs=(train_rows, oof), outputs=(reference,)),
        Step(name="drift", run="steps.drift:drift", inputs=(reference, holdout_rows, predictions), outputs=(drift,)),
        Step(
            name="explain",
            run="steps.explain:explain",
            inputs=(model, decision_rule, holdout_rows, predictions),
            outputs=(importance, reasons),
        ),
        Step(
            name="describe",
            run="steps.contract:describe",
            inputs=(model, decision_rule, train_rows),
            outputs=(contract,),
        ),
        Step(
            name="report",
            run="steps.report:report",
            inputs=(
                ingestion,
                masking,
                privacy_verdicts,
                validation,
                quality_verdicts,
                training,
                decision_rule,
                evaluation,
                calibration,
                fairness,
                drift,
                importance,
                reasons,
            ),
            outputs=(evidence,),
            lineage=True,
            gates=(
                Gate(name="performance", reads=evaluation),
                Gate(name="fair", reads=fairness),
                Gate(name="stable", reads=drift),
            ),
            verdicts=verdicts,
        ),
    ),
    results=(evidence, quarantine),
    serves=Serves(model=model, rule=decision_rule, contract=contract, reference=reference),
    schedule=Schedule(
        cron=("0 5 * * mon",),
        time_zone="America/New_York",
        champion=champion,
        compared="champion.auc_over_champion",
        deadline=6 * 3600,
        description="Weekly, before the bank opens; a Monday morning on which the cluster was down is made up for",
    ),
)
