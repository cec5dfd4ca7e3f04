module vernal.dev/e2e/checkers

go 1.26.0

// What runs beside Vernal, of which only CRDs and texts are used.
require (
	github.com/kedacore/keda/v2 v2.21.0
	sigs.k8s.io/gateway-api v1.6.3
	sigs.k8s.io/gateway-api-inference-extension v1.4.0
	sigs.k8s.io/kueue v0.17.0
)
