module vernal.dev/e2e/checkers

go 1.26.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
