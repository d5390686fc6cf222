package kubeadm

import (
	"fmt"
	"regexp"
	"strings"
)

// unanswered is why a process on a control-plane node did not answer, in words for people.
type unanswered struct {
	text  string
	cause error
}

func (u *unanswered) Error() string { return u.text }
func (u *unanswered) Unwrap() error { return u.cause }

// reasons are what is behind the errors that are usual while an API server is started again. Kubelets, container
// runtimes and API servers have no codes for them; the first that matches counts. %s is the process that was asked.
var reasons = []struct {
	text   *regexp.Regexp
	reason string
}{
	{regexp.MustCompile(`pod not found|failed to find sandboxID|container not found|is not running`), "%s does not run"},
	{regexp.MustCompile(`the kubelet answers: .*connection refused`), "%s does not listen yet"},
	{regexp.MustCompile(`Authorization error \(user=`), "the kubelet cannot ask an API server whether %s may be reached"},
	{regexp.MustCompile(`deadline exceeded|TLS handshake timeout|Client\.Timeout`), "%s has not answered in time"},
	{regexp.MustCompile(`cannot get path "/readyz"`), "%s is starting, and does not know the rights of Keyturn yet"},
}

// failedCheck is a line of /readyz about a check that failed.
var failedCheck = regexp.MustCompile(`\[-\]([\w/.-]+) failed`)

// explain replaces an error that is usual while an API server is started again with its reason and what happens next.
// Others stay as they are.
func explain(err error, process, next string) error {
	if err == nil {
		return nil
	}
	say := func(format string, args ...any) error {
		return &unanswered{text: fmt.Sprintf(format, args...) + "; " + next, cause: err}
	}
	if failed := failedCheck.FindAllStringSubmatch(err.Error(), -1); len(failed) > 0 {
		var checks []string
		for _, f := range failed {
			checks = append(checks, f[1])
		}
		return say("%s is not ready: of its checks, %s fails", process, strings.Join(checks, ", "))
	}
	for _, r := range reasons {
		if r.text.MatchString(err.Error()) {
			return say(r.reason, process)
		}
	}
	return err
}
