package rotation

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFigures wants the figures of docs/how-it-is-proven.md about this package to be right.
func TestFigures(t *testing.T) {
	page, err := os.ReadFile("../../docs/how-it-is-proven.md")
	if err != nil {
		t.Fatal(err)
	}
	golden, err := filepath.Glob("testdata/*.golden")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(page)), " ")
	for _, figure := range []string{
		fmt.Sprintf("every state that %d kinds of small cluster", len(smallShapes)),
		fmt.Sprintf("rotates %d kinds of cluster", len(shapes)),
		fmt.Sprintf("plants %d planners", len(brokenPlanners)),
		fmt.Sprintf("%d golden files", len(golden)),
	} {
		if !strings.Contains(text, figure) {
			t.Errorf("docs/how-it-is-proven.md does not say %q", figure)
		}
	}
}
