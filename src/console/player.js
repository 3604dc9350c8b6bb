/** The listener's page: one session to follow, one to play. */
import { byId, startTheme, text } from './dom.js';
import { Follow } from './follow.js';
import { Session } from './session.js';
import { You } from './you.js';

/** @param {'running' | 'reconnecting' | 'refused'} state @param {string} detail */
function showState(state, detail) {
  byId('state').dataset['state'] =
    state === 'running' ? 'running' : state === 'refused' ? 'stopped' : 'starting';
  text('state', state === 'running' ? 'connected' : state);
  const because = detail === '' ? '' : ` (${detail})`;
  const messages = {
    running: '',
    reconnecting: `The connection to the engine is lost${because}. It comes back by itself.`,
    refused: `The engine refused the connection${because}. Reload the page to try again.`,
  };
  text('banner', messages[state]);
  byId('banner').hidden = messages[state] === '';
}

startTheme();
const session = new Session({
  prediction: (frame) => follow.prediction(frame),
  state: (state, detail) => {
    showState(state, detail);
    if (state === 'running') you.connected();
  },
});
const you = new You(session);
const follow = new Follow(session, (titles) => you.offer(titles));
