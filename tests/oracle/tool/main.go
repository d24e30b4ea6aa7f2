// Command oracle answers allocation questions with Kubernetes' own allocator.
//
// It reads a question a line from stdin and writes an answer a line to stdout, both JSON, in the same order.
// With the argument "selectors" it evaluates CEL selectors instead, with what they cost.
// Feature gates stand as Kubernetes 1.36 has them by default.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"
)

// question: claims that have an allocation hold their devices, the others are to be placed on the node together.
type question struct {
	Node    *corev1.Node                `json:"node"`
	Slices  []*resourcev1.ResourceSlice `json:"slices"`
	Classes []*resourcev1.DeviceClass   `json:"classes"`
	Claims  []*resourcev1.ResourceClaim `json:"claims"`
	Seconds float64                     `json:"seconds"` // limit of time
}

type answer struct {
	Placed      bool                          `json:"placed"`
	OutOfTime   bool                          `json:"outOfTime,omitempty"`
	Error       string                        `json:"error,omitempty"`
	Allocations []resourcev1.AllocationResult `json:"allocations,omitempty"`
	Micros      int64                         `json:"micros"`
}

var features = structured.Features{
	AdminAccess:            true,
	ConsumableCapacity:     true,
	DeviceBindingAndStatus: true,
	DeviceTaints:           true,
	PartitionableDevices:   true,
	PrioritizedList:        true,
}

type lister map[string]*resourcev1.DeviceClass

func (l lister) Get(name string) (*resourcev1.DeviceClass, error) {
	if class, ok := l[name]; ok {
		return class, nil
	}
	return nil, fmt.Errorf("there is no device class %q", name)
}

func (l lister) List() ([]*resourcev1.DeviceClass, error) {
	all := make([]*resourcev1.DeviceClass, 0, len(l))
	for _, class := range l {
		all = append(all, class)
	}
	return all, nil
}

// count books what a claim's allocation holds, as kube-scheduler does.
func count(state *structured.AllocatedState, allocation *resourcev1.AllocationResult) {
	for _, result := range allocation.Devices.Results {
		id := structured.MakeDeviceID(result.Driver, result.Pool, result.Device)
		if result.AdminAccess != nil && *result.AdminAccess {
			continue
		}
		if result.ShareID == nil {
			state.AllocatedDevices.Insert(id)
			continue
		}
		state.AllocatedSharedDeviceIDs.Insert(structured.MakeSharedDeviceID(id, result.ShareID))
		state.AggregatedCapacity.Insert(structured.NewDeviceConsumedCapacity(id, result.ConsumedCapacity))
	}
}

func (q *question) answer(cache *cel.Cache) (a answer) {
	state := structured.AllocatedState{
		AllocatedDevices:         sets.New[structured.DeviceID](),
		AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity:       structured.NewConsumedCapacityCollection(),
	}
	var open []*resourcev1.ResourceClaim
	for _, claim := range q.Claims {
		if claim.Status.Allocation != nil {
			count(&state, claim.Status.Allocation)
		} else {
			open = append(open, claim)
		}
	}
	classes := lister{}
	for _, class := range q.Classes {
		classes[class.Name] = class
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(q.Seconds*float64(time.Second)))
	defer cancel()
	begin := time.Now()
	defer func() { a.Micros = time.Since(begin).Microseconds() }()
	allocator, err := structured.NewAllocator(ctx, features, state, classes, q.Slices, cache)
	if err == nil {
		a.Allocations, err = allocator.Allocate(ctx, q.Node, open)
	}
	if err != nil {
		return answer{Error: err.Error(), OutOfTime: errors.Is(err, context.DeadlineExceeded)}
	}
	a.Placed = len(a.Allocations) > 0
	return a
}

func run() error {
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	out := json.NewEncoder(os.Stdout)
	if len(os.Args) > 1 && os.Args[1] == "selectors" {
		return selectors(in, out)
	}
	cache := cel.NewCache(1000, cel.Features{EnableConsumableCapacity: true})
	for in.More() {
		var q question
		if err := in.Decode(&q); err != nil {
			return err
		}
		if err := out.Encode(q.answer(cache)); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}
