// Package check has what a room finds out about the machine before it works there, in the words that its
// refusals use as well.
package check

// Finding is one thing that was looked at.
type Finding struct {
	Subject string // one word or two
	Text    string // how it is
	Next    string // the one command, or step, that mends it; empty when there is nothing to mend
}

// OK is a finding of nothing to mend.
func OK(subject, text string) Finding { return Finding{Subject: subject, Text: text} }

// Error is the finding as a refusal; nil when there is nothing to mend.
func (f Finding) Error() error {
	if f.Next == "" {
		return nil
	}
	return refusal{f}
}

type refusal struct{ Finding }

func (r refusal) Error() string { return r.Text + "; " + r.Next }
