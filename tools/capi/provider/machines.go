package provider

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util"
	"sigs.k8s.io/cluster-api/util/finalizers"
	"sigs.k8s.io/cluster-api/util/patch"
	"sigs.k8s.io/cluster-api/util/paused"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/keyturn/keyturn/internal/local/cloudconfig"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
	"github.com/keyturn/keyturn/internal/local/machine"
	"github.com/keyturn/keyturn/tools/capi/api/v1alpha1"
)

// machines is the controller of LocalMachines.
type machines struct {
	client.Client
	// reader reads Secrets, which nothing of this provider keeps in memory.
	reader client.Reader
	host   *Host
}

func (m *machines) setup(mgr manager.Manager) error {
	kind := v1alpha1.GroupVersion.WithKind("LocalMachine")
	ofCluster, err := util.ClusterToTypedObjectsMapper(mgr.GetClient(), &v1alpha1.LocalMachineList{}, mgr.GetScheme())
	if err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).For(&v1alpha1.LocalMachine{}).
		Watches(&clusterv1.Machine{}, handler.EnqueueRequestsFromMapFunc(util.MachineToInfrastructureMapFunc(kind))).
		Watches(&clusterv1.Cluster{}, handler.EnqueueRequestsFromMapFunc(ofCluster)).
		Complete(m)
}

// subject is one LocalMachine with what it belongs to.
type subject struct {
	*v1alpha1.LocalMachine
	// owner is nil until Cluster API has set it.
	owner   *clusterv1.Machine
	cluster *clusterv1.Cluster
	// network is nil when it is not there, or no more.
	network *v1alpha1.LocalCluster
}

// Reconcile makes, keeps or removes one machine.
func (m *machines) Reconcile(ctx context.Context, request ctrl.Request) (result ctrl.Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	s, err := m.gather(ctx, request)
	if err != nil || s == nil {
		return ctrl.Result{}, err
	}
	isPaused, changed, err := paused.EnsurePausedCondition(ctx, m, s.cluster, s.LocalMachine)
	if err != nil || isPaused || changed {
		return ctrl.Result{}, err
	}
	helper, err := patch.NewHelper(s.LocalMachine, m)
	if err != nil {
		return ctrl.Result{}, err
	}
	defer func() {
		if err != nil {
			setReady(s.LocalMachine, v1alpha1.ReasonFailed, err.Error())
		}
		failed := helper.Patch(ctx, s.LocalMachine, ownedConditions)
		if !s.DeletionTimestamp.IsZero() {
			failed = utilerrors.FilterOut(failed, apierrors.IsNotFound)
		}
		err = utilerrors.NewAggregate([]error{err, failed})
	}()
	if !s.DeletionTimestamp.IsZero() {
		return m.remove(ctx, s)
	}
	return m.keep(ctx, s)
}

// gather reads a LocalMachine with what it belongs to. Nil: there is nothing to do yet.
func (m *machines) gather(ctx context.Context, request ctrl.Request) (*subject, error) {
	local := &v1alpha1.LocalMachine{}
	if err := m.Get(ctx, request.NamespacedName, local); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	s := &subject{LocalMachine: local}
	var err error
	if s.owner, err = util.GetOwnerMachine(ctx, m, local.ObjectMeta); client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	if s.owner == nil && local.DeletionTimestamp.IsZero() {
		return nil, nil // the change that gives it an owner comes here
	}
	s.cluster, err = util.GetClusterFromMetadata(ctx, m, local.ObjectMeta)
	if err != nil {
		return nil, fmt.Errorf("finding the Cluster of LocalMachine %s: %w", request, err)
	}
	network := &v1alpha1.LocalCluster{}
	key := client.ObjectKey{Namespace: local.Namespace, Name: s.cluster.Spec.InfrastructureRef.Name}
	switch err := m.Get(ctx, key, network); {
	case err == nil:
		s.network = network
	case !apierrors.IsNotFound(err):
		return nil, err
	}
	return s, nil
}

func (m *machines) keep(ctx context.Context, s *subject) (ctrl.Result, error) {
	if added, err := finalizers.EnsureFinalizer(ctx, m, s.LocalMachine, v1alpha1.MachineFinalizer); err != nil || added {
		return ctrl.Result{}, err
	}
	if missing := s.missing(); missing != "" {
		setReady(s.LocalMachine, v1alpha1.ReasonWaiting, missing)
		return ctrl.Result{}, nil // the change that is waited for comes here
	}
	if version := s.owner.Spec.Version; version != "" && version != m.host.Version {
		setReady(s.LocalMachine, v1alpha1.ReasonUnsupportedVersion,
			fmt.Sprintf("machines of this host have Kubernetes %s, not %s", m.host.Version, version))
		return ctrl.Result{}, nil
	}
	unlock, err := m.host.lock()
	if err != nil {
		return ctrl.Result{}, err
	}
	defer unlock()
	host, err := m.host.open(s.network)
	if err != nil {
		return ctrl.Result{}, err
	}
	state, err := m.run(ctx, host, s)
	var invalid *invalidData
	if errors.As(err, &invalid) {
		setReady(s.LocalMachine, v1alpha1.ReasonInvalidBootstrapData, invalid.Error())
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	s.report(state)
	return s.reportFirstBoot(host)
}

// missing names what has to come first; empty: nothing.
func (s *subject) missing() string {
	switch {
	case !ptr.Deref(s.cluster.Status.Initialization.InfrastructureProvisioned, false) || s.network == nil:
		return "waiting for the LocalCluster to be provisioned"
	case s.owner.Spec.Bootstrap.DataSecretName == nil:
		return "waiting for the bootstrap data of the Machine"
	}
	return ""
}

// run starts the machine if it does not run.
func (m *machines) run(ctx context.Context, host *kubeadm.Cluster, s *subject) (machine.State, error) {
	state, _, err := host.Machine(s.Name)
	if err != nil || state.Running {
		return state, err
	}
	data, err := m.bootstrapData(ctx, s)
	if err != nil {
		return state, err
	}
	role := kubeadm.Worker
	if util.IsControlPlaneMachine(s.owner) {
		role = kubeadm.ControlPlane
	}
	boot := kubeadm.Boot{UserData: data, ProviderID: s.providerID()}
	if err := host.Boot(ctx, s.Name, role, boot); err != nil {
		return state, err
	}
	state, _, err = host.Machine(s.Name)
	return state, err
}

// providerID is unique on the host.
func (s *subject) providerID() string {
	return fmt.Sprintf("keyturn://%s/%s", s.network.Spec.ID, s.Name)
}

// invalidData means that no machine of this host can carry out the bootstrap data.
type invalidData struct{ error }

// bootstrapData reads the bootstrap data of the Machine, and refuses what the machine would fail at.
func (m *machines) bootstrapData(ctx context.Context, s *subject) ([]byte, error) {
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: s.Namespace, Name: *s.owner.Spec.Bootstrap.DataSecretName}
	if err := m.reader.Get(ctx, key, secret); err != nil {
		return nil, fmt.Errorf("reading bootstrap data: %w", err)
	}
	if format := string(secret.Data["format"]); format != "" && format != "cloud-config" {
		return nil, &invalidData{fmt.Errorf("bootstrap data of format %q is not supported", format)}
	}
	data := secret.Data["value"]
	if _, err := cloudconfig.Parse(data, cloudconfig.MetaData{"local_hostname": s.Name, "instance_id": s.Name}); err != nil {
		return nil, &invalidData{fmt.Errorf("reading bootstrap data: %w", err)}
	}
	return data, nil
}

// report writes what a machine that runs is.
func (s *subject) report(state machine.State) {
	s.Spec.ProviderID = s.providerID()
	s.Status.Initialization.Provisioned = ptr.To(true)
	s.Status.FailureDomain = s.owner.Spec.FailureDomain
	s.Status.Addresses = []clusterv1.MachineAddress{
		{Type: clusterv1.MachineHostName, Address: s.Name},
		{Type: clusterv1.MachineInternalIP, Address: state.Spec.Port.Address.Addr().String()},
	}
}

// reportFirstBoot writes what came of the bootstrap data.
func (s *subject) reportFirstBoot(host *kubeadm.Cluster) (ctrl.Result, error) {
	result, ended, err := host.FirstBoot(s.Name)
	switch {
	case err != nil:
		return ctrl.Result{}, err
	case !ended:
		setReady(s.LocalMachine, v1alpha1.ReasonBootstrapping, "the machine carries out its bootstrap data")
		return ctrl.Result{RequeueAfter: busyInterval}, nil
	case result.Error != "":
		setReady(s.LocalMachine, v1alpha1.ReasonBootstrapFailed, result.Error+"; see /var/log/first-boot.log of the machine")
	default:
		setReady(s.LocalMachine, v1alpha1.ReasonReady, "")
	}
	return ctrl.Result{RequeueAfter: settledInterval}, nil
}

// remove removes the machine. Cluster API has drained its Node before, and removed its member of etcd.
func (m *machines) remove(ctx context.Context, s *subject) (ctrl.Result, error) {
	setReady(s.LocalMachine, v1alpha1.ReasonDeleting, "the machine is being removed")
	if s.network != nil && s.network.Spec.ID != "" {
		unlock, err := m.host.lock()
		if err != nil {
			return ctrl.Result{}, err
		}
		defer unlock()
		host, err := m.host.open(s.network)
		if err != nil {
			return ctrl.Result{}, err
		}
		if err := host.Remove(ctx, s.Name); err != nil {
			return ctrl.Result{}, err
		}
	}
	controllerutil.RemoveFinalizer(s.LocalMachine, v1alpha1.MachineFinalizer)
	return ctrl.Result{}, nil
}
