package remnants_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// readerEnv names the kubeconfig of a test binary that is to read key versions as the controller does.
const readerEnv = "KEYTURN_TEST_READER_KUBECONFIG"

func TestMain(m *testing.M) {
	kubeconfig := os.Getenv(readerEnv)
	if kubeconfig == "" {
		os.Exit(m.Run())
	}
	if err := read(kubeconfig); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// read lists the key versions of the world's cluster once for each line of stdin, and answers with a line.
func read(kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1
	store, err := keystore.NewSecrets(config)
	if err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		keys, err := store.List(context.Background(), cluster)
		if err != nil {
			return err
		}
		fmt.Println(keys)
	}
	return nil
}

// startReader starts a process that holds private keys only as the controller does: this one generated them.
func startReader(tb testing.TB, w *world) (round func() error, pid int) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), readerEnv+"="+kubetest.WriteKubeconfig(tb, w.config))
	cmd.Stderr = os.Stderr
	stdin, errIn := cmd.StdinPipe()
	stdout, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut, cmd.Start()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = errors.Join(stdin.Close(), cmd.Wait()) })
	answers := bufio.NewScanner(stdout)
	return func() error {
		if _, err := fmt.Fprintln(stdin); err != nil {
			return err
		}
		if !answers.Scan() {
			return errors.Join(errors.New("the reader has ended"), answers.Err())
		}
		return nil
	}, cmd.Process.Pid
}
