package main

import (
	"context"
	"encoding/json"
	"io"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/utils/ptr"
)

// selector is an expression and the device that it is asked about.
type selector struct {
	Expression string             `json:"expression"`
	Driver     string             `json:"driver"`
	Device     *resourcev1.Device `json:"device"`
}

// verdict: Estimate is what the API server compares with its limit, Cost what kube-scheduler counts.
type verdict struct {
	Matches      bool   `json:"matches"`
	CompileError string `json:"compileError,omitempty"`
	Error        string `json:"error,omitempty"`
	Estimate     uint64 `json:"estimate"`
	Cost         uint64 `json:"cost"`
}

func (s *selector) verdict() (v verdict) {
	compiler := cel.GetCompiler(cel.Features{EnableConsumableCapacity: true})
	// The estimate is for new expressions, as in ValidateResourceClaim; the program is kube-scheduler's.
	compiled := compiler.CompileCELExpression(s.Expression, cel.Options{EnvType: ptr.To(environment.NewExpressions)})
	if compiled.Error != nil {
		return verdict{CompileError: compiled.Error.Detail}
	}
	v.Estimate = compiled.MaxCost
	compiled = compiler.CompileCELExpression(s.Expression, cel.Options{DisableCostEstimation: true})
	matches, details, err := compiled.DeviceMatches(context.Background(), cel.Device{
		Driver:                   s.Driver,
		AllowMultipleAllocations: s.Device.AllowMultipleAllocations,
		Attributes:               s.Device.Attributes,
		Capacity:                 s.Device.Capacity,
	})
	v.Matches = matches
	if err != nil {
		v.Error = err.Error()
	}
	if details != nil {
		v.Cost = ptr.Deref(details.ActualCost(), 0)
	}
	return v
}

func selectors(in *json.Decoder, out *json.Encoder) error {
	for {
		var s selector
		if err := in.Decode(&s); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := out.Encode(s.verdict()); err != nil {
			return err
		}
	}
}
