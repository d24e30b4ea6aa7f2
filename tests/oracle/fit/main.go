// Command fit answers, with kube-scheduler's own filter plugins, on which nodes a pod may run.
//
// It reads a question a line from stdin and writes an answer a line to stdout, both JSON, in the same order.
// Feature gates and the plugins' arguments stand as Kubernetes 1.36 has them by default.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/defaultbinder"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/feature"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/interpodaffinity"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeaffinity"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodename"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeports"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/noderesources"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeunschedulable"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/podtopologyspread"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/queuesort"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/tainttoleration"
	"k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"
)

// question: where may the pod go, beside pods that have their nodes?
type question struct {
	Namespaces []*corev1.Namespace `json:"namespaces"`
	Nodes      []*corev1.Node      `json:"nodes"`
	Pods       []*corev1.Pod       `json:"pods"`
	Pod        *corev1.Pod         `json:"pod"`
}

// answer: for each node that does not do, the plugin that says so, and its words.
type answer struct {
	Error   string             `json:"error,omitempty"`
	Refused map[string]verdict `json:"refused"`
}

type verdict struct {
	Plugin string `json:"plugin"`
	Reason string `json:"reason"`
}

// filters, in the order in which the default profile asks them.
var filters = []string{
	nodeunschedulable.Name, nodename.Name, tainttoleration.Name, nodeaffinity.Name,
	nodeports.Name, noderesources.Name, podtopologyspread.Name, interpodaffinity.Name,
}

func registry() runtime.Registry {
	gates := feature.NewSchedulerFeaturesFromGates(utilfeature.DefaultFeatureGate)
	return runtime.Registry{
		queuesort.Name:         queuesort.New,
		defaultbinder.Name:     defaultbinder.New,
		nodeunschedulable.Name: runtime.FactoryAdapter(gates, nodeunschedulable.New),
		nodename.Name:          runtime.FactoryAdapter(gates, nodename.New),
		tainttoleration.Name:   runtime.FactoryAdapter(gates, tainttoleration.New),
		nodeaffinity.Name:      runtime.FactoryAdapter(gates, nodeaffinity.New),
		nodeports.Name:         runtime.FactoryAdapter(gates, nodeports.New),
		noderesources.Name:     runtime.FactoryAdapter(gates, noderesources.NewFit),
		podtopologyspread.Name: runtime.FactoryAdapter(gates, podtopologyspread.New),
		interpodaffinity.Name:  runtime.FactoryAdapter(gates, interpodaffinity.New),
	}
}

// profile: the filters with their default arguments, and what no framework goes without.
func profile() (*config.KubeSchedulerProfile, error) {
	defaults, err := latest.Default()
	if err != nil {
		return nil, err
	}
	made := &config.KubeSchedulerProfile{
		SchedulerName: "fit", Plugins: &config.Plugins{}, PluginConfig: defaults.Profiles[0].PluginConfig,
	}
	enabled := &made.Plugins.MultiPoint.Enabled
	for _, name := range append([]string{queuesort.Name, defaultbinder.Name}, filters...) {
		*enabled = append(*enabled, config.Plugin{Name: name, Weight: 1})
	}
	return made, nil
}

func (q *question) answer(ctx context.Context, plugins runtime.Registry, profile *config.KubeSchedulerProfile) (answer, error) {
	snapshot := cache.NewSnapshot(q.Pods, q.Nodes)
	factory := informers.NewSharedInformerFactory(nil, 0) // never started: it but holds the namespaces
	for _, namespace := range q.Namespaces {
		if err := factory.Core().V1().Namespaces().Informer().GetIndexer().Add(namespace); err != nil {
			return answer{}, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	scheduler, err := runtime.NewFramework(ctx, plugins, profile,
		runtime.WithSnapshotSharedLister(snapshot), runtime.WithInformerFactory(factory))
	if err != nil {
		return answer{}, err
	}
	state := framework.NewCycleState()
	nodes, status, _ := scheduler.RunPreFilterPlugins(ctx, state, q.Pod)
	a := answer{Refused: map[string]verdict{}}
	for _, node := range q.Nodes {
		said := status
		if said.IsSuccess() {
			if !nodes.AllNodes() && !nodes.NodeNames.Has(node.Name) {
				a.Refused[node.Name] = verdict{"PreFilter", "not among the nodes that PreFilter leaves"}
				continue
			}
			info, err := snapshot.Get(node.Name)
			if err != nil {
				return answer{}, err
			}
			said = scheduler.RunFilterPlugins(ctx, state, q.Pod, info)
		}
		if !said.IsSuccess() && !said.IsRejected() {
			return answer{Error: said.Message()}, nil
		}
		if !said.IsSuccess() {
			a.Refused[node.Name] = verdict{said.Plugin(), said.Message()}
		}
	}
	return a, nil
}

func run() error {
	metrics.Register()
	ctx := klog.NewContext(context.Background(), klog.Logger{})
	plugins := registry()
	profile, err := profile()
	if err != nil {
		return err
	}
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	out := json.NewEncoder(os.Stdout)
	for in.More() {
		var q question
		if err := in.Decode(&q); err != nil {
			return err
		}
		a, err := q.answer(ctx, plugins, profile)
		if err != nil {
			return err
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "fit:", err)
		os.Exit(1)
	}
}
