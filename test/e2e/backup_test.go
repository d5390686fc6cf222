package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/token"
)

// TestBackup walks docs/operations/backup.md: etcd of the admin cluster is restored from before a rotation, the key is
// taken from the disk of a control-plane machine, and then such a machine is restored from before the rotation.
func TestBackup(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.createCluster(single(v1alpha1.KeySourceExternal) + p.gkeConnect())
	old := p.mint(t, "")
	p.backUp(t)
	p.copyMachine(t)
	p.must(p.credentials("rotate", "--skip-prompt", "--wait", "--timeout", rotateTimeout.String())...)
	p.expectStatus(2)
	live := p.mint(t, "")

	p.restoreEtcd(t)
	p.awaitWaiting(t, shown(t, "key version 3 is missing", "version 3", "version 2"))
	p.expectUnharmed(t, live)
	p.restoreKey(t)
	p.expectStatus(2)
	p.expectSecrets(t, "e2e-gke-connect", "e2e-ksa-signing-key-2", "e2e-kubeconfig")
	p.expectUnharmed(t, live)

	p.restoreMachine(t)
	p.expectConfigured(t, `{"Verify":[2],"Sign":2,"External":true}`)
	p.awaitRefused(t, old)
	p.expectUnharmed(t, live)
	p.end(t)
}

// words are the values of words in capitals on the pages.
func (p *place) words() map[string]string {
	return map[string]string{
		"DATA": p.dataDir(), "BACKUP": filepath.Join(p.dir, "backup"), "ADMIN_KUBECONFIG": p.kubeconfig(), "NAME": "e2e",
		"N": "2", "RS256": "ES256",
	}
}

// flagsOfTheFirstTime are what the admin cluster was made with, beside the flags that the page has.
func (p *place) flagsOfTheFirstTime() string {
	return " --network " + p.network + " --allow-publish file://" + p.published()
}

// backUp copies etcd of the admin cluster.
func (p *place) backUp(t *testing.T) {
	t.Helper()
	commands := strings.TrimSuffix(pageBlock(t, "backup.md", "for name in local controller"), "\n")
	p.shell(t, p.words(), commands+p.flagsOfTheFirstTime())
}

// copyMachine copies the files of the API server and its signer.
func (p *place) copyMachine(t *testing.T) {
	t.Helper()
	p.shell(t, nil, "cp -a "+p.server()+" "+filepath.Join(p.dir, "machine"))
}

// server is the directory of the user cluster's API server.
func (p *place) server() string {
	return filepath.Join(p.dataDir(), "clusters", v1alpha1.SystemNamespace+".e2e", "apiserver-0")
}

// stop are the page's commands that end the admin cluster.
func stop(t *testing.T) string {
	t.Helper()
	end, _, found := strings.Cut(pageBlock(t, "backup.md", "for name in local controller"), "cp -a")
	if !found {
		t.Fatal("backup.md no longer copies etcd")
	}
	return end
}

// restoreEtcd puts a backup in the place of etcd. The page has the replaced one deleted at the end.
func (p *place) restoreEtcd(t *testing.T) {
	t.Helper()
	commands := strings.TrimSuffix(pageBlock(t, "backup.md", "mv DATA/admin/etcd"), "\n")
	p.shell(t, p.words(), stop(t), commands+p.flagsOfTheFirstTime())
	p.shell(t, p.words(), "rm -r DATA/admin/etcd.replaced")
}

// restoreKey stores the newest key again, and then wants its version.
func (p *place) restoreKey(t *testing.T) {
	t.Helper()
	aliases := pageBlock(t, "recover.md", "alias k=")
	p.shell(t, p.words(), aliases, pageBlock(t, "backup.md", "KEYS=DATA"))
	p.shell(t, p.words(), aliases, pageBlock(t, "recover.md", "k annotate --local -f backup.json"))
	p.awaitWaiting(t, shown(t, "key version 3 is stored", "version 2 is wanted", "version 1 is wanted",
		"version 3", "version 2", "back to 3", "back to 2"))
	p.shell(t, p.words(), aliases, pageBlock(t, "recover.md", "k annotate usercluster NAME \"$REASON\"\n"))
	p.waitReady(t)
}

// shown is what the page shows of a status, in one line, with its versions replaced by others.
func shown(t *testing.T, begins string, versions ...string) string {
	t.Helper()
	text := strings.Join(strings.Fields(pageBlock(t, "backup.md", begins)), " ")
	return strings.NewReplacer(versions...).Replace(text)
}

// awaitWaiting waits until the status is blocked and waits for this.
func (p *place) awaitWaiting(t *testing.T, want string) {
	t.Helper()
	p.await(t, "waiting for the status", func(context.Context) error {
		uc := p.cluster("e2e")
		ready := meta.FindStatusCondition(uc.Status.Conditions, v1alpha1.ConditionReady)
		if got := uc.Status.KSASigningKey.WaitingFor; got != want || ready.Reason != v1alpha1.ReasonRotationBlocked {
			return fmt.Errorf("it waits for %q, with reason %s", got, ready.Reason)
		}
		return nil
	})
}

// expectUnharmed checks that the API server accepts a token of key version 2, and signs with that key.
func (p *place) expectUnharmed(t *testing.T, live string) {
	t.Helper()
	want, err := token.KeyID(live)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := token.KeyID(p.mint(t, "")); err != nil || got != want {
		t.Errorf("a new token has the kid %q (%v), want %q", got, err, want)
	}
	p.eventually("reviewing a token", func(ctx context.Context) error {
		answer, err := p.user("e2e").AuthenticationV1().TokenReviews().Create(ctx,
			&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: live}}, metav1.CreateOptions{})
		if err == nil && !answer.Status.Authenticated {
			t.Error("a token of key version 2 is refused")
		}
		return err
	})
}

// awaitRefused waits until a token of a retired key is refused.
func (p *place) awaitRefused(t *testing.T, old string) {
	t.Helper()
	p.await(t, "reviewing a token of the old key", func(ctx context.Context) error {
		answer, err := p.user("e2e").AuthenticationV1().TokenReviews().Create(ctx,
			&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: old}}, metav1.CreateOptions{})
		if err == nil && answer.Status.Authenticated {
			return errors.New("it is accepted")
		}
		return err
	})
}

// expectConfigured waits for what is configured of the API server.
func (p *place) expectConfigured(t *testing.T, want string) {
	t.Helper()
	p.await(t, "reading configured.json", func(context.Context) error {
		got, err := os.ReadFile(filepath.Join(p.server(), "keys", "configured.json"))
		if err == nil && strings.TrimSpace(string(got)) != want {
			err = fmt.Errorf("it is %s, want %s", got, want)
		}
		return err
	})
}

// expectSecrets checks which Secrets of user clusters there are.
func (p *place) expectSecrets(t *testing.T, want ...string) {
	t.Helper()
	out, err := p.kubectl(t, p.kubeconfig(), "-n", v1alpha1.SystemNamespace, "get", "secrets", "-o", "name")
	if err != nil {
		t.Fatalf("listing Secrets: %v\n%s", err, out)
	}
	var got []string
	for name := range strings.FieldsSeq(string(out)) {
		if name = strings.TrimPrefix(name, "secret/"); strings.HasPrefix(name, "e2e-") {
			got = append(got, name)
		}
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("the Secrets are %v, want %v", got, want)
	}
}

// restoreMachine gives the API server and its signer the files of before the rotation, and starts them with these.
func (p *place) restoreMachine(t *testing.T) {
	t.Helper()
	run := filepath.Join(p.dataDir(), "clusters", v1alpha1.SystemNamespace+".e2e", "run")
	end := fmt.Sprintf(`for name in apiserver-0 signer-0; do
		pid=$(sed -n 2p %s/$name.pid | cut -d' ' -f1)
		kill $pid && while [ -d /proc/$pid ]; do sleep 0.1; done
	done`, run)
	replace := fmt.Sprintf("rm -r %[1]s\ncp -a %[2]s %[1]s", p.server(), filepath.Join(p.dir, "machine"))
	p.shell(t, p.words(), stop(t), end, replace,
		"gkectl create admin --data-dir DATA --kubeconfig ADMIN_KUBECONFIG"+p.flagsOfTheFirstTime())
}
